"""Near duplicates beside datasketch, which is another implementation of MinHash and of locality-sensitive hashing."""

import random
from itertools import combinations

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH

from tuneyard_trainer.data.similar import candidates, repeated
from tuneyard_trainer.data.words import SKETCH, Words, WordWriter, shingles, similarity, words_of_rows

THRESHOLD = 0.85
WORDS = [f"{one}{two}{three}" for one in "bdgkmprst" for two in "aeiou" for three in "lnrs"]


def varied(chance: random.Random, words: list[str], changes: int) -> list[str]:
    """The words with so many of them replaced."""
    copy = [*words]
    for place in chance.sample(range(len(words)), changes):
        copy[place] = chance.choice(WORDS)
    return copy


@pytest.fixture(scope="module")
def answers() -> list[str]:
    """Of 60 texts three versions each, which differ by up to a third of their words."""
    chance = random.Random(11)  # noqa: S311
    texts = [chance.choices(WORDS, k=chance.randint(40, 90)) for _ in range(60)]
    return [
        " ".join(varied(chance, text, changes))
        for text in texts
        for changes in (0, chance.randint(0, 3), chance.randint(0, len(text) // 3))
    ]


@pytest.fixture(scope="module")
def words(answers: list[str], tmp_path_factory: pytest.TempPathFactory) -> Words:
    with WordWriter(tmp_path_factory.mktemp("words") / "rows") as writer:
        for row in words_of_rows(("", answer) for answer in answers):
            writer.add(row)
        return writer.finish()


@pytest.fixture(scope="module")
def reference(words: Words) -> list[MinHash]:
    """datasketch's sketches of the same words and pairs of words."""
    sketches = []
    for row in range(len(words)):
        sketch = MinHash(num_perm=SKETCH, seed=3)
        sketch.update_batch([int(number).to_bytes(8, "big") for number in shingles(words.of(row))])
        sketches.append(sketch)
    return sketches


def alike(words: Words) -> dict[tuple[int, int], float]:
    """The similarity of all pairs that share anything."""
    sets = [shingles(words.of(row)) for row in range(len(words))]
    pairs = {pair: similarity(sets[pair[0]], sets[pair[1]]) for pair in combinations(range(len(sets)), 2)}
    return {pair: value for pair, value in pairs.items() if value > 0}


def test_sketches_estimate_as_well_as_datasketch(words: Words, reference: list[MinHash]) -> None:
    ours, theirs = [], []
    for (one, other), value in alike(words).items():
        ours.append(float((words.sketches[one] == words.sketches[other]).mean()) - value)
        theirs.append(reference[one].jaccard(reference[other]) - value)
    assert np.abs(np.mean(ours)) < 0.01
    assert np.std(ours) < 1.25 * np.std(theirs)


def test_what_datasketch_finds_is_found(words: Words, reference: list[MinHash]) -> None:
    index = MinHashLSH(threshold=THRESHOLD, num_perm=SKETCH, weights=(0.1, 0.9))
    for row, sketch in enumerate(reference):
        index.insert(row, sketch)
    exact = {pair for pair, value in alike(words).items() if value >= THRESHOLD}
    theirs = {(other, row) for row, sketch in enumerate(reference) for other in index.query(sketch) if other < row}
    ours = {(one, other) for one, other in candidates(words, THRESHOLD).tolist()}
    assert len(exact) > 30
    # Beside the first of several alike rows and the one before it, the others need not be compared.
    chained = {(one, other) for one, other in exact if one % 3 == 0 or other - one == 1}
    assert theirs & chained <= ours
    assert len(chained - ours) <= 0.02 * len(chained)


def test_each_row_repeats_one_that_is_kept(words: Words) -> None:
    found = dict(repeated(words, THRESHOLD))
    exact = {pair for pair, value in alike(words).items() if value >= THRESHOLD}
    assert not found.keys() & set(found.values())
    assert {(kept, row) for row, kept in found.items()} <= exact
    left = {other for one, other in exact if one not in found and other not in found}
    assert len(left) <= 0.02 * len(found)
