"""Rows that are nearly the same: found by locality-sensitive hashing of their sketches, then compared word by word.

MinHash (Broder 1997, On the resemblance and containment of documents) in bands (Leskovec, Rajaraman, Ullman, Mining of
Massive Datasets, chapter 3.4). A band is sorted at a time, so memory is some 40 bytes a row.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from tuneyard_trainer.data.words import FACTOR, SKETCH, Words, numbers, shingles, similarity

MISSED: Final = 0.005
"""Of the pairs at the threshold, so many are not compared at most."""
MARGIN: Final = 0.15
"""Pairs whose sketches are less similar than the threshold by this are not compared: three standard errors."""
LEAST_ANSWER: Final = 0.5
"""Answers share so much of their words at least: rows about one long passage differ only there."""
CHUNK: Final = 2**14

Pairs = npt.NDArray[np.int64]


def band_rows(threshold: float) -> int:
    """The numbers of a sketch in one band: as many as find nearly all pairs at the threshold."""
    sizes = (rows for rows in range(16, 1, -1) if (1 - threshold**rows) ** (SKETCH // rows) <= MISSED)
    return next(sizes, 1)


def candidates(words: Words, threshold: float) -> Pairs:
    """Pairs (earlier row, later row) whose sketches are similar, of shape (pairs, 2), by the later row."""
    size = band_rows(threshold)
    found = [np.empty((0, 2), np.int64)]
    filled = np.diff(words.ends.astype(np.int64)) > 0
    for begin in range(0, SKETCH - size + 1, size):
        pairs = _same_band(np.asarray(words.sketches[:, begin : begin + size], np.uint64), filled)
        for chunk in range(0, len(pairs), CHUNK):
            some = pairs[chunk : chunk + CHUNK]
            equal = words.sketches[some[:, 0]] == words.sketches[some[:, 1]]
            found.append(some[equal.mean(axis=1) >= threshold - MARGIN])
    return np.unique(np.concatenate(found)[:, ::-1], axis=0)[:, ::-1]


def _same_band(band: npt.NDArray[np.uint64], filled: npt.NDArray[np.bool_]) -> Pairs:
    """Each row that has a band in common with others, paired with the first of them and with the one before it."""
    key = np.zeros(len(band), np.uint64)
    with np.errstate(over="ignore"):
        for column in band.T:
            key = key * FACTOR + column + np.uint64(1)
    order = np.argsort(key, kind="stable")
    order = order[filled[order]]
    same = key[order][1:] == key[order][:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    first = np.repeat(order[starts], np.diff(np.append(starts, len(order)))) if len(order) else order
    later = np.flatnonzero(same) + 1
    pairs = [np.stack([first[later], order[later]], 1), np.stack([order[later - 1], order[later]], 1)]
    return np.unique(np.concatenate(pairs), axis=0)


def is_similar(words: Words, one: int, other: int, threshold: float) -> bool:
    """Whether two rows share as much of their words and pairs of words, have the same numbers, and similar answers."""
    first, second = words.of(one), words.of(other)
    if not np.array_equal(numbers(first), numbers(second)):
        return False
    if similarity(shingles(first), shingles(second)) < threshold:
        return False
    return similarity(words.answer_of(one), words.answer_of(other)) >= LEAST_ANSWER


def repeated(words: Words, threshold: float) -> Iterator[tuple[int, int]]:
    """(row, the earlier row that it repeats) for each row that is similar to one which is kept."""
    original: dict[int, int] = {}
    for earlier, later in candidates(words, threshold).tolist():
        kept = original.get(earlier, earlier)
        if later not in original and is_similar(words, kept, later, threshold):
            original[later] = kept
            yield later, kept
