"""Cleaned rows on disk: of each row only the key stays in memory."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneyard_trainer.data.examples import Key, from_json, to_json
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.split import VALIDATION


@dataclass(frozen=True)
class Spooled:
    """Rows in a file, with their keys in the same order."""

    path: Path
    keys: list[Key]
    validation: set[Key]
    """The keys of the rows from the validation source."""

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self) -> Iterator[SourceRow]:
        with self.path.open() as stream:
            for key, line in zip(self.keys, stream, strict=True):
                example, where, split = json.loads(line)
                yield SourceRow(from_json(example), Place(*where), split, key)


def spool(rows: Iterable[SourceRow], path: Path) -> Spooled:
    """Writes the rows to `path`."""
    spooled = Spooled(path, [], set())
    with path.open("w") as stream:
        for row in rows:
            spooled.keys.append(row.key)
            if row.split == VALIDATION:
                spooled.validation.add(row.key)
            stream.write(json.dumps([to_json(row.example), row.where, row.split]) + "\n")
    return spooled
