"""Kubernetes quantities as numbers: the one place that parses them.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

SUFFIXES: Final[Mapping[str, Decimal]] = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}
LARGEST: Final = 2**63 - 1  # Kubernetes' own limit
LIMIT_MESSAGE: Final = "a Kubernetes quantity is at most 2^63 - 1"
SHOWN: Final = 60  # characters of a wrong quantity
PATTERN: Final = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]+)|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?)"
)


def parse_quantity(quantity: str | int) -> Decimal:
    """A quantity as a number: 500m is 0.5, 1Ki is 1024, 2e3 is 2000.

    Raises:
        ValueError: it is not a quantity.
    """
    found = PATTERN.fullmatch(str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is not a Kubernetes quantity: write a number such as 2, 500m or 16Gi")
    number, exponent, suffix = found.groups()
    try:
        value = Decimal(number).scaleb(int(exponent)) if exponent else Decimal(number) * SUFFIXES[suffix or ""]
    except (ArithmeticError, ValueError) as error:  # an exponent, or so many digits, that no number can have
        raise ValueError(f"{str(quantity)[:SHOWN]} is out of range: {LIMIT_MESSAGE}") from error
    if abs(value) > LARGEST:
        raise ValueError(f"{str(quantity)[:SHOWN]} is out of range: {LIMIT_MESSAGE}")
    return value


def cpu_threads(limits: Mapping[str, str | int] | None, requests: Mapping[str, str | int] | None) -> int | None:
    """CPU threads of a container: the cpu limit, else the request, rounded up; None where neither is given.

    Raises:
        ValueError: the cpu is not a quantity.
    """
    for resources in (limits, requests):
        cpu = (resources or {}).get("cpu")
        if cpu is not None:
            return max(1, math.ceil(parse_quantity(cpu)))
    return None
