"""Cleaned rows on disk: of each row only the key and some numbers stay in memory."""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_trainer.data.examples import Chat, Example, Key, content_key, from_json
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.row_keys import RowKeys
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.split import GENERAL, VALIDATION, Split, rank
from tuneyard_trainer.data.texts import question_and_answer
from tuneyard_trainer.data.words import RowWords, Words, WordWriter, words_of_rows

TAB: Final = "\t"
"""Stands between an example as JSON, which writes a tab as \\t, and where the row is from."""
BUFFER: Final = 2**18
"""Bytes that go to the file at once."""
ENCODING: Final = {"encoding": "utf-8", "errors": "surrogatepass"}


@dataclass
class Spooled:
    """Rows in a file, some of which are left out later. Those of dataset.replay are its last ones."""

    path: Path
    words: Words
    row_keys: RowKeys = field(default_factory=RowKeys)
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

    def rows(self) -> Iterator["SpooledRow"]:
        """The job's own rows that are kept."""
        return map(SpooledLine.row, self.lines())

    def lines(self) -> Iterator["SpooledLine"]:
        """The job's own rows that are kept, as they are in the file."""
        with self.path.open("rb") as stream:
            for key, line, is_kept in zip(islice(self.row_keys, self.own), stream, self.kept, strict=False):
                if is_kept:
                    yield SpooledLine(line, key)

    def general(self, seed: int) -> list[int]:
        """The numbers of the rows of dataset.replay that are kept, in a random order."""
        kept = (number for number in range(self.own, len(self.kept)) if self.kept[number])
        return sorted(kept, key=lambda number: rank(self.row_keys[number], seed))

    def line(self, number: int) -> "SpooledLine":
        """One row, kept or not, as it is in the file."""
        with self.path.open("rb") as stream:
            stream.seek(self.offsets[number])
            return SpooledLine(stream.readline(), self.row_keys[number])

    def row(self, number: int) -> "SpooledRow":
        """One row, kept or not."""
        return self.line(number).row()

    def leave_out(self, number: int) -> "SpooledRow":
        """Keeps the row no longer, and returns it."""
        self.kept[number] = 0
        return self.row(number)


class SpooledLine(NamedTuple):
    """A row that is not parsed yet, so that another process can do it."""

    line: bytes
    key: Key

    def row(self) -> "SpooledRow":
        text, _, known = self.line.decode(**ENCODING).partition(TAB)
        *where, split = json.loads(known)
        return SpooledRow(from_json(json.loads(text)), Place(*where), split, self.key, text)


class SpooledRow(NamedTuple):
    """A row that was parsed again."""

    example: Example
    where: Place
    split: Split
    key: Key
    text: str


class WrittenRow(NamedTuple):
    """A row that is ready for a file, as one process hands it to another."""

    text: str
    """The example as JSON."""
    where: Place
    split: Split
    key: Key
    question: int = 0
    """See Spooled.questions."""
    words: RowWords | None = None

    @property
    def example(self) -> Example:
        return from_json(json.loads(self.text))


def written(rows: Sequence[SourceRow], *, with_words: bool = True, with_questions: bool = True) -> Iterator[WrittenRow]:
    """The rows with their words, unless no step compares rows by them; so for questions."""
    words = words_of_rows(question_and_answer(row.example) for row in rows) if with_words else None
    for row in rows:
        question = _question(row.example) if with_questions else 0
        yield WrittenRow(row.text, row.where, row.split, row.key, question, next(words) if words else None)


def _question(example: Example) -> int:
    if not isinstance(example, Chat) or len(example.messages) < 2:
        return 0
    return int.from_bytes(content_key(Chat(example.messages[:-1], example.tools))[:8], "big")


def spool(rows: Iterable[WrittenRow], path: Path) -> Spooled:
    """Writes the rows to `path`, and their words beside it."""
    keys = RowKeys()
    own = 0
    offsets, questions, validation, position = array("Q"), array("Q"), set(), 0
    with path.open("wb", BUFFER) as stream, WordWriter(path) as writer:
        for row in rows:
            keys.append(row.key)
            own += row.split != GENERAL
            if row.split == VALIDATION:
                validation.add(row.key)
            offsets.append(position)
            line = f"{row.text}{TAB}{json.dumps([*row.where, row.split])}\n"
            position += stream.write(line.encode(**ENCODING))
            questions.append(row.question)
            if row.words:
                writer.add(row.words)
        words = writer.finish()
    return Spooled(path, words, keys, offsets, questions, bytearray(b"\x01") * len(keys), validation, own)
