"""How fast a model answers, whatever computes it."""

from typing import Final

from pydantic import Field

from tuneyard_api.contracts.base import Contract

TOGETHER: Final = 8
"""Requests that are answered at once."""


class Speed(Contract):
    """None: not measured."""

    seconds_to_first_token: float | None = Field(default=None, description="Of one request alone.")
    tokens_per_second: float | None = Field(default=None, description="Of one request alone.")
    tokens_per_second_together: float | None = Field(
        default=None, description=f"Of {TOGETHER} requests at once, all of them together."
    )
