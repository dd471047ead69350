"""Rows that cannot be used: dropped and counted, up to a share of all rows (dataset.clean.badRows)."""

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_api.kinds.dataset import BadRowsPolicy
from tuneyard_trainer.data.dropped import Drop, DroppedRows
from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.runtime.errors import BadInput, sentence

KINDS: Final = 200
"""So many different faults are told apart."""
TOLD: Final = 3

# The reasons of rows as the report and the status show them, beside those of the cleaning steps.
NAMES: Final = {
    reasons.INVALID_JSON: "invalidJSON",
    reasons.INVALID_ROW: "invalidRow",
    reasons.MISSING_ANSWER: "missingAnswer",
}


class BadRow(NamedTuple):
    """A row that cannot be used, and what is written down of it."""

    error: RowError
    drop: Drop


@dataclass
class Fault:
    """Rows with the same fault."""

    error: RowError
    """Of the first one."""
    place: Place
    rows: int = 0

    @property
    def example(self) -> str:
        """Place and fault of the first row."""
        return self.error.at(self.place).message

    def __str__(self) -> str:
        return self.example if self.rows == 1 else f"{self.rows} rows such as {self.example}"


class BadRows:
    """Collects the faults of rows."""

    def __init__(self, policy: BadRowsPolicy, dropped: DroppedRows) -> None:
        self._policy = policy
        self._dropped = dropped
        self._faults: dict[tuple[str, str], Fault] = {}
        self.count = 0

    def add(self, error: RowError, place: Place, row: Any) -> None:
        """Drops a row.

        Raises:
            BadInput: the policy is to fail; names the URI and the line.
        """
        reason = NAMES.get(error.reason, error.reason)
        self.take(BadRow(error, self._dropped.drop(place, reason, row, error.message)))

    def take(self, bad: BadRow) -> None:
        """Drops a row of which this is to be written down; raises as `add` does."""
        error, place = bad.error, bad.drop.place
        if self._policy.policy == "fail":
            raise error.at(place) from error
        self.count += 1
        self._dropped.take(bad.drop)
        kind = error.reason, re.sub(r"\d+", "0", error.message)
        if kind not in self._faults and len(self._faults) >= KINDS:
            kind = error.reason, ""
        self._faults.setdefault(kind, Fault(error, place)).rows += 1

    def faults(self) -> list[Fault]:
        """The commonest first."""
        return sorted(self._faults.values(), key=lambda fault: -fault.rows)

    def require(self, rows: int, policy: BadRowsPolicy | None = None) -> None:
        """Raises BadInput when more of the rows are bad than dataset.clean.badRows allows.

        Args:
            rows: how many there were, good and bad.
            policy: another one than the rows were read with.
        """
        policy = policy or self._policy
        allowed = policy.max_fraction * rows if policy.policy == "drop" else 0
        if self.count <= allowed:
            return
        faults = self.faults()
        told = "; ".join(map(str, faults[:TOLD]))
        more = f"; and {len(faults) - TOLD} other faults" if len(faults) > TOLD else ""
        limit = f"maxFraction is {policy.max_fraction:g}" if policy.policy == "drop" else "policy is fail"
        raise BadInput(
            faults[0].error.reason,
            f"{told}{more}. {self.count} of {rows} rows cannot be used; dataset.clean.badRows.{limit}",
            sentence(faults[0].error.advice),
        )
