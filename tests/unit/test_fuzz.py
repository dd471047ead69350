"""Each kind of a user's file, mutated: it ends as a reason. `make fuzz` tries ten thousand of each."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.kinds import KINDS
from fuzz.run import CORPUS, MEMORY_BYTES, Chunk, cases, tried

MUTATIONS = 40
CASES = sorted(path.relative_to(CORPUS) for path in CORPUS.glob("*/*"))


@pytest.fixture(autouse=True)
def limited_memory() -> Iterator[None]:
    """A case that would take all the memory of a machine ends this process instead."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_that_were_found(case: Path) -> None:
    assert tried(case.parts[0], (CORPUS / case).read_bytes()) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_mutations(kind: str) -> None:
    for number, data in enumerate(cases(Chunk(kind, seed=0, first=0, cases=MUTATIONS))):
        assert tried(kind, data) == "", f"mutation {number}"


@pytest.mark.parametrize("kind", KINDS)
def test_sound_files(kind: str) -> None:
    """A fuzz of files that are refused at once would try nothing."""
    assert {KINDS[kind].read(seed) for seed in KINDS[kind].seeds()} == {"Completed"}


def test_mutations_are_repeatable_and_differ() -> None:
    first, again = (list(cases(Chunk("config", seed=5, first=0, cases=50))) for _ in range(2))
    assert first == again
    assert len(set(first)) > 40


def test_a_crash_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(data: bytes) -> str:
        raise KeyError("weight_map")

    monkeypatch.setitem(KINDS, "config", KINDS["config"]._replace(read=crash))
    assert "KeyError: 'weight_map'" in tried("config", b"{}")
