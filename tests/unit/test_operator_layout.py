"""The rooms of the operator: few imports between them, and no cycle."""

from graphlib import TopologicalSorter

import grimp
import pytest

ROOT = "tuneyard_operator"
MOST_EDGES = 20


@pytest.fixture(scope="module")
def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports from; a room is a sub-package or a module beside them."""
    graph = grimp.build_graph(ROOT, cache_dir=None)
    found = graph.find_children(ROOT)
    for room in found:
        graph.squash_module(room)
    return {room: (graph.find_modules_directly_imported_by(room) & found) - {room} for room in found}


def test_rooms_have_few_imports_between_them(rooms: dict[str, set[str]]) -> None:
    edges = [(room, other) for room, others in rooms.items() for other in others]
    assert 5 < len(edges) <= MOST_EDGES, sorted(edges)


def test_rooms_have_no_cycle(rooms: dict[str, set[str]]) -> None:
    TopologicalSorter(rooms).prepare()  # raises CycleError, with the cycle
