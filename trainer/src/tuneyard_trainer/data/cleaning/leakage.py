"""Drops training rows that are nearly in validation too, which makes its score mean nothing (dataset.clean.leakage).

Two rows are nearly the same by their words (see tuneyard_trainer.data.similar), or by their sequences of 13 words, as
in Brown et al. 2020, Language Models are Few-Shot Learners, appendix C. Only sequences that reach into an answer count,
so that rows about one passage are no leak; and none that many training rows have, which are phrases.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.similar import candidates, is_similar
from tuneyard_trainer.data.spool import Spooled
from tuneyard_trainer.data.words import FACTOR, Hashes, Words

REASON: Final = "leaked"
LENGTH: Final = 13
SHARE: Final = 0.5
"""A row leaks that has so much of a held-out row's sequences, or has so much of its own in held-out rows."""
PHRASE: Final = 10
"""A sequence in more training rows than this is a phrase."""
THRESHOLD: Final = 0.8
"""Where nearDuplicates is 0."""
CHUNK: Final = 2**12

Ints = npt.NDArray[np.int64]


class Sequences(NamedTuple):
    """Sequences of words: a hash of each, and its row."""

    hashes: Hashes
    rows: Ints


def apply(rows: Spooled, context: CleaningContext) -> None:
    if context.settings.leakage == "keep" or not rows.validation:
        return
    held_out = np.fromiter(map(rows.is_held_out, range(len(rows.row_keys))), bool, len(rows.row_keys))
    kept = np.frombuffer(bytes(rows.kept), np.uint8).astype(bool)
    leaks = dict(_overlapping(rows.words, np.flatnonzero(held_out & kept), np.flatnonzero(~held_out & kept)))
    if not context.settings.near_duplicates:
        leaks |= dict(_similar(rows.words, held_out))
    for row, source in sorted(leaks.items()):
        context.drop(rows.leave_out(row), REASON, f"is nearly the held-out {rows.row(source).where}")


def _similar(words: Words, held_out: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(training row, held-out row) that are nearly the same."""
    for one, other in candidates(words, THRESHOLD).tolist():
        if held_out[one] != held_out[other] and is_similar(words, one, other, THRESHOLD):
            yield (other, one) if held_out[one] else (one, other)


def sequences(words: Words, rows: Ints) -> Iterator[Sequences]:
    """The sequences of LENGTH words that reach into an answer, of some rows at a time."""
    for window in range(0, len(words), CHUNK):
        chunk = rows[np.searchsorted(rows, window) : np.searchsorted(rows, window + CHUNK)]
        if not len(chunk):
            continue
        first, last = int(words.ends[chunk[0]]), int(words.ends[chunk[-1] + 1])
        count = last - first - LENGTH + 1
        if count <= 0:
            continue
        hashes = np.asarray(words.hashes[first:last])
        whole = np.zeros(count, np.uint64)
        with np.errstate(over="ignore"):
            for place in range(LENGTH):
                whole = whole * FACTOR + hashes[place : place + count]
        spans = [_span(words, int(row)) for row in chunk]
        starts = [np.arange(low - first, high - first) for low, high in spans]
        places = np.concatenate(starts)
        if len(places):  # some row is as long as a sequence
            yield Sequences(whole[places], np.repeat(chunk, [len(start) for start in starts]))


def _span(words: Words, row: int) -> tuple[int, int]:
    """Where the sequences of a row that reach into its answer begin: from and until."""
    begin, answer, end = int(words.ends[row]), int(words.answers[row]), int(words.ends[row + 1])
    low = max(begin, answer - LENGTH + 1)
    return low, max(low, end - LENGTH + 1)


def _overlapping(words: Words, held_out: Ints, training: Ints) -> Iterator[tuple[int, int]]:
    """(training row, held-out row) with many sequences in common."""
    found = [*sequences(words, held_out)]
    if not found:
        return
    known, first = np.unique(np.concatenate([item.hashes for item in found]), return_index=True)
    owners = np.concatenate([item.rows for item in found])[first]
    sizes = dict(zip(*map(np.ndarray.tolist, np.unique(owners, return_counts=True)), strict=True))
    hits, lengths = _hits(words, training, known)
    used = np.bincount(hits[:, 1], minlength=len(known)) <= PHRASE
    hits = hits[used[hits[:, 1]]]
    shared, counts = np.unique(np.stack([hits[:, 0], owners[hits[:, 1]]], 1), axis=0, return_counts=True)
    for (row, owner), count in zip(shared.tolist(), counts.tolist(), strict=True):
        if count >= SHARE * min(sizes[owner], lengths[row]):
            yield row, owner


def _hits(words: Words, training: Ints, known: Hashes) -> tuple[Ints, dict[int, int]]:
    """The known sequences in training rows, of shape (hits, 2): row and number; and the sequences of each such row.

    No sequence has more hits than those of a phrase and one chunk, so that memory is bounded by the held-out rows.
    """
    hits, lengths = [np.empty((0, 2), np.int64)], dict[int, int]()
    counts = np.zeros(len(known), np.int64)
    for item in sequences(words, training):
        place = np.minimum(np.searchsorted(known, item.hashes), len(known) - 1)
        hit = known[place] == item.hashes
        pairs = np.unique(np.stack([item.rows[hit], place[hit]], 1), axis=0)
        pairs = pairs[counts[pairs[:, 1]] <= PHRASE]
        counts += np.bincount(pairs[:, 1], minlength=len(known))
        hits.append(pairs)
        rows, sizes = np.unique(item.rows[np.isin(item.rows, pairs[:, 0])], return_counts=True)
        lengths |= dict(zip(rows.tolist(), sizes.tolist(), strict=True))
    return np.concatenate(hits), lengths
