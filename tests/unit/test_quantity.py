"""Quantities as the API server reads them."""

from decimal import Decimal

import pytest

from tuneyard_api.quantity import cpu_threads, parse_quantity


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("2", "2"), (2, "2"), ("500m", "0.5"), ("1500000u", "1.5"), ("2500000000n", "2.5"), ("1k", "1000"),
        ("0.5", "0.5"), (".5", "0.5"), ("2.", "2"), ("1Ki", "1024"), ("1.5Gi", "1610612736"), ("2e3", "2000"),
        ("1E", "1000000000000000000"), ("1E3", "1000"), ("128974848", "128974848"), ("-1", "-1"),
    ],
)  # fmt: skip
def test_quantities(quantity: str | int, value: str) -> None:
    assert parse_quantity(quantity) == Decimal(value)


@pytest.mark.parametrize("quantity", ["", "x", "1 Gi", "1GB", "m", "1e", "1.2.3", "\uff11"])
def test_invalid_quantities(quantity: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(quantity)


@pytest.mark.parametrize(
    ("limits", "requests", "threads"),
    [
        ({"cpu": "2"}, {"cpu": "1"}, 2),
        ({"memory": "1Gi"}, {"cpu": "1500m"}, 2),
        ({"cpu": 0}, None, 1),
        ({"cpu": "3000000u"}, None, 3),
        (None, None, None),
        ({}, {"memory": "1Gi"}, None),
    ],
)
def test_threads(
    limits: dict[str, str | int] | None, requests: dict[str, str | int] | None, threads: int | None
) -> None:
    assert cpu_threads(limits, requests) == threads
