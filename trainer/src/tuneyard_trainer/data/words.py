"""The words of rows as hashes on disk: by them rows are compared with each other, without reading them again.

Of each row two numbers stay in memory. A hash is the same in every process. Its lowest bit tells whether the word has a
digit. The words of the answers come last, so that they can be told from those of the questions.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

Hashes = npt.NDArray[np.uint64]

# Chinese, Japanese and Thai are written without spaces: each character counts as a word.
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f"
WORD: Final = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
SKETCH: Final = 128
"""Numbers of a sketch: the standard error of the similarity is 1 / sqrt(128), or 0.09, at most."""
SEED: Final = 1
HASH_BYTES: Final = 8
FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)

# What stands between the words of ASCII; a table is three times as fast as the expression.
_BETWEEN: Final = {number: " " for number in range(128) if WORD.match(chr(number)) is None}


def words_of(text: str) -> list[str]:
    """The words of a text, in order and in small letters."""
    folded = text.casefold()
    return folded.translate(_BETWEEN).split() if folded.isascii() else WORD.findall(folded)


@lru_cache(2**16)
def word_hash(word: str) -> int:
    number = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return number | 1 if any(map(str.isdigit, word)) else number & ~1


class RowWords(NamedTuple):
    """The words of one row, as they are on disk."""

    hashes: bytes
    """Of its words, the question's first: 8 bytes each."""
    answer: int
    """The number of words before those of the answer."""
    sketch: bytes


def words_of_rows(rows: Iterable[tuple[str, str]]) -> Iterator[RowWords]:
    """The words of some rows, of each of which question and answer are given: no more than fit into memory."""
    hashes, ends, answers = array("Q"), array("Q", [0]), list[int]()
    for question, answer in rows:
        hashes.fromlist([*map(word_hash, words_of(question))])
        answers.append(len(hashes) - ends[-1])
        hashes.fromlist([*map(word_hash, words_of(answer))])
        ends.append(len(hashes))
    if not answers:
        return
    sketches = _sketches(np.asarray(hashes, np.uint64), np.asarray(ends, np.int64))
    for number, before in enumerate(answers):
        yield RowWords(hashes[ends[number] : ends[number + 1]].tobytes(), before, sketches[number].tobytes())


class WordWriter:
    """Writes the words and the sketches of rows."""

    def __init__(self, path: Path) -> None:
        self._hashes: IO[bytes] = path.with_suffix(".words").open("wb")
        self._sketches: IO[bytes] = path.with_suffix(".sketches").open("wb")
        self._path = path
        self._ends: array[int] = array("Q", [0])
        self._answers: array[int] = array("Q")

    def add(self, words: RowWords) -> None:
        """The next row."""
        before = self._ends[-1]
        self._answers.append(before + words.answer)
        self._ends.append(before + len(words.hashes) // HASH_BYTES)
        self._hashes.write(words.hashes)
        self._sketches.write(words.sketch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._hashes.close()
        self._sketches.close()

    def finish(self) -> "Words":
        """What was written, once nothing is added any more."""
        self._hashes.flush()
        self._sketches.flush()
        return Words(self._path, np.asarray(self._ends, np.uint64), np.asarray(self._answers, np.uint64))


def _sketches(hashes: Hashes, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """MinHash sketches of shape (rows, SKETCH), of the words and the pairs of words of each row."""
    row = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    inside = row[:-1] == row[1:]
    shingles = np.concatenate([hashes, pairs_of_words(hashes)[inside]])
    rows = np.concatenate([row, row[:-1][inside]])
    order = np.argsort(rows, kind="stable")
    offsets = np.searchsorted(rows[order], np.arange(len(ends))).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles[order], offsets, SKETCH, SEED)
    return np.asarray(matrix.to_rows(), np.uint32).reshape(len(ends) - 1, SKETCH)


def pairs_of_words(hashes: Hashes) -> Hashes:
    """A hash for each two words that follow each other."""
    with np.errstate(over="ignore"):
        return hashes[:-1] * FACTOR + hashes[1:]


class Words:
    """The words of rows, read through the page cache."""

    def __init__(self, path: Path, ends: Hashes, answers: Hashes) -> None:
        self.ends = ends
        """Where the words of each row end, and of the next begin."""
        self.answers = answers
        """Where the words of each row's answers begin."""
        self.hashes: Hashes = _mapped(path.with_suffix(".words"), np.uint64, ())
        self.sketches: npt.NDArray[np.uint32] = _mapped(path.with_suffix(".sketches"), np.uint32, (SKETCH,))

    def __len__(self) -> int:
        return len(self.answers)

    def of(self, row: int) -> Hashes:
        return np.asarray(self.hashes[int(self.ends[row]) : int(self.ends[row + 1])])

    def answer_of(self, row: int) -> Hashes:
        return np.asarray(self.hashes[int(self.answers[row]) : int(self.ends[row + 1])])


def _mapped(path: Path, kind: Any, shape: tuple[int, ...]) -> Any:
    if not path.stat().st_size:
        return np.zeros((0, *shape), kind)
    return np.memmap(path, kind, "r").reshape(-1, *shape)


def similarity(one: Hashes, other: Hashes) -> float:
    """Jaccard's similarity of two sets; of two empty ones 1."""
    shared = len(np.intersect1d(one, other))
    whole = len(np.union1d(one, other))
    return shared / whole if whole else 1.0


def shingles(words: Hashes) -> Hashes:
    """The words and the pairs of words, each once."""
    return np.unique(np.concatenate([words, pairs_of_words(words)]))


def numbers(words: Hashes) -> Hashes:
    """The words with a digit, in order."""
    return np.asarray(words[(words & np.uint64(1)).astype(bool)])
