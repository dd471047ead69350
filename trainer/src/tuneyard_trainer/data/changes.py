"""Rows that cleaning has changed or found something in: counted by what was done, with some examples of each."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Final

from tuneyard_api.contracts.base import Contract
from tuneyard_trainer.data.examples import Example
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.texts import texts

SAMPLES: Final = 3
CONTEXT_CHARACTERS: Final = 30
SHOWN_CHARACTERS: Final = 160


class ChangeSample(Contract):
    """One changed text."""

    where: str
    """URI and line."""
    before: str | None
    """The text around the first difference; None where it must not be shown."""
    after: str


class Changes:
    """Counts that grow while rows are cleaned."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.samples: dict[str, list[ChangeSample]] = {}

    def add(self, place: Place, what: str, before: Example, after: Example, *, hide: bool = False) -> None:
        """Counts a row that was changed.

        Args:
            what: a camelCase word that report and status show.
            hide: what was there before is not shown.
        """
        self.counts[what] += 1
        found = self.samples.setdefault(what, [])
        if len(found) < SAMPLES:
            found += [_sample(place, *pair, hide=hide) for pair in _different(before, after)][:1]

    def merge(self, later: "Changes") -> None:
        """Adds what was counted in the rows after these."""
        self.counts.update(later.counts)
        for what, samples in later.samples.items():
            found = self.samples.setdefault(what, [])
            found += samples[: SAMPLES - len(found)]


def _different(before: Example, after: Example) -> Iterator[tuple[str, str]]:
    for one, other in zip(texts(before), texts(after), strict=True):
        if one != other:
            yield one, other


def _sample(place: Place, before: str, after: str, *, hide: bool) -> ChangeSample:
    begin = max(0, len(os.path.commonprefix([before, after])) - CONTEXT_CHARACTERS)
    shown = slice(begin, begin + SHOWN_CHARACTERS)
    return ChangeSample(where=str(place), before=None if hide else before[shown], after=after[shown])
