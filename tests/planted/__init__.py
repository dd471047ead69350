"""Failures that real users meet, planted one by one: what they see, and what they do about it.

docs/failures.md is written from this list by tests/planted/page.py, and tests/unit/test_planted_failures.py plants each
and looks at the message. What needs a kubelet or a GPU is played by the simulated cluster, with the messages that these
write; the end to end tests plant some of them for real.
"""

from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple


class Seen(NamedTuple):
    """What `kubectl apply` answers, or what `kubectl describe` shows in the conditions."""

    reason: str = ""
    """Empty where `kubectl apply` refuses the object."""
    message: str = ""


FINE: Final = Seen()
"""What is seen where nothing is wrong."""


class Planted(NamedTuple):
    """One failure."""

    kind: str
    cause: str
    """What is wrong, in the words of somebody who knows."""
    show: Callable[[], Seen]
    """Plants it."""
    names: tuple[str, ...]
    """What the message must name: the object, field or file to change, and the remedy."""
    remedy: str
    """What to do, in Markdown."""
    mended: Callable[[], Seen] | None = None
    """After the remedy, which must be FINE; None where the remedy is not in the spec, Secret, model or data."""


@cache
def shown(planted: Planted) -> Seen:
    """What the planted failure shows; it is planted once, because that takes up to a second."""
    return planted.show()
