"""Cleaned rows on disk: of each row only the key and some numbers stay in memory."""

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tuneyard_trainer.data.examples import Chat, Example, Key, content_key, from_json, to_json
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.split import GENERAL, VALIDATION, rank
from tuneyard_trainer.data.texts import question_and_answer
from tuneyard_trainer.data.words import Words, WordWriter


@dataclass
class Spooled:
    """Rows in a file, some of which are left out later. Those of dataset.replay are its last ones."""

    path: Path
    words: Words
    row_keys: list[Key] = field(default_factory=list)
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    """Where the line of each row begins."""
    questions: "array[int]" = field(default_factory=lambda: array("Q"))
    """8 bytes for what stands before each row's last answer, equal for the same question; 0 where there is none."""
    kept: bytearray = field(default_factory=bytearray)
    """1 for a row that is kept."""
    validation: set[Key] = field(default_factory=set)
    """The keys of the rows that are held out."""
    own: int = 0
    """How many rows, from the first one, are the job's own."""

    def __len__(self) -> int:
        """Of the job's own rows, those that are kept."""
        return sum(self.kept[: self.own])

    @property
    def keys(self) -> Iterator[Key]:
        """Of the job's own rows that are kept."""
        return (self.row_keys[number] for number in range(self.own) if self.kept[number])

    def is_held_out(self, row: int) -> bool:
        return self.row_keys[row] in self.validation

    def rows(self) -> Iterator[SourceRow]:
        """The job's own rows that are kept."""
        with self.path.open("rb") as stream:
            for key, line, is_kept in zip(self.row_keys[: self.own], stream, self.kept, strict=False):
                if is_kept:
                    yield _row(line, key)

    def general(self, seed: int) -> list[int]:
        """The numbers of the rows of dataset.replay that are kept, in a random order."""
        kept = (number for number in range(self.own, len(self.kept)) if self.kept[number])
        return sorted(kept, key=lambda number: rank(self.row_keys[number], seed))

    def row(self, number: int) -> SourceRow:
        """One row, kept or not."""
        with self.path.open("rb") as stream:
            stream.seek(self.offsets[number])
            return _row(stream.readline(), self.row_keys[number])

    def leave_out(self, number: int) -> SourceRow:
        """Keeps the row no longer, and returns it."""
        self.kept[number] = 0
        return self.row(number)


def _row(line: bytes, key: Key) -> SourceRow:
    example, where, split = json.loads(line)
    return SourceRow(from_json(example), Place(*where), split, key)


def _question(example: Example) -> int:
    if not isinstance(example, Chat) or len(example.messages) < 2:
        return 0
    return int.from_bytes(content_key(Chat(example.messages[:-1], example.tools))[:8], "big")


def spool(rows: Iterable[SourceRow], path: Path, *, with_words: bool = True, with_questions: bool = True) -> Spooled:
    """Writes the rows to `path`, and beside it their words, unless no step compares rows by them; so for questions."""
    keys: list[Key] = []
    own = 0
    offsets, questions, validation, position = array("Q"), array("Q"), set(), 0
    with path.open("wb") as stream, WordWriter(path) as writer:
        for row in rows:
            keys.append(row.key)
            own += row.split != GENERAL
            if row.split == VALIDATION:
                validation.add(row.key)
            offsets.append(position)
            position += stream.write(json.dumps([to_json(row.example), row.where, row.split]).encode() + b"\n")
            questions.append(_question(row.example) if with_questions else 0)
            if with_words:
                writer.add(*question_and_answer(row.example))
        words = writer.finish()
    return Spooled(path, words, keys, offsets, questions, bytearray(b"\x01") * len(keys), validation, own)
