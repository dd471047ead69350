"""Cleaning and splitting: what is kept of the rows, and what is held out. Rows live on disk, their keys in memory."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_api.contracts.artifact import canonical_json
from tuneyard_trainer.data.examples import Messages
from tuneyard_trainer.data.source import SourceRow

Key = bytes

KEY_BYTES: Final = 16

# Why rows are dropped, as the report and the status name it.
DUPLICATE: Final = "duplicate"
IN_VALIDATION: Final = "inValidation"
TOO_LONG: Final = "tooLong"
NOTHING_TO_TRAIN: Final = "nothingToTrain"


class Spooled(NamedTuple):
    """Rows on disk, and for each, in the same order, the key of its content."""

    path: Path
    keys: list[Key]

    def rows(self) -> Iterator[SourceRow]:
        with self.path.open() as stream:
            for line in stream:
                messages, uri, number = json.loads(line)
                yield SourceRow(messages, uri, number)


def content_key(messages: Messages) -> Key:
    """Equal for rows that say the same."""
    return hashlib.sha256(canonical_json(messages)).digest()[:KEY_BYTES]


def spool(rows: Iterable[SourceRow], path: Path, dropped: Counter[str], *, keep_duplicates: bool) -> Spooled:
    """Writes rows to disk; of equal ones only the first, unless duplicates are kept."""
    keys: list[Key] = []
    seen: set[Key] = set()
    with path.open("w") as stream:
        for row in rows:
            key = content_key(row.messages)
            if key in seen and not keep_duplicates:
                dropped[DUPLICATE] += 1
                continue
            seen.add(key)
            keys.append(key)
            stream.write(json.dumps(row) + "\n")
    return Spooled(path, keys)


def held_out(keys: Iterable[Key], fraction: float, seed: int) -> set[Key]:
    """A share of the different rows, at least one, chosen by content and seed: the rows' order does not matter."""
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(seed.to_bytes(8, "big") + key).digest())
    return set(ranked[: max(1, round(len(ranked) * fraction))])
