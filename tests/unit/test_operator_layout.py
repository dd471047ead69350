"""The operator's rooms have few imports between them and no cycle; its kinds are those of the API."""

from graphlib import TopologicalSorter

import grimp
import pytest

from tuneyard_api.kinds import KINDS
from tuneyard_api.names import API_VERSION
from tuneyard_operator.main import CONTROLLERS

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


def test_each_kind_of_the_api_has_a_controller() -> None:
    """A kind is one line in the API's registry and one line in main."""
    controlled = {(each.kind.api_version, each.kind.kind, each.kind.plural) for each in CONTROLLERS}
    assert controlled == {(API_VERSION, each.kind, each.plural) for each in KINDS}
