"""The runc wrapper: what the host lacks is not asked for, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuneyard_cluster.bounded_runc import NAMES, bounded, bounding_set, document, lacking

ALL = frozenset(f"CAP_{name}" for name in NAMES)
NO_RESOURCE = "Name:\truncx\nCapEff:\t0000000000000000\nCapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000000\n"


def process(*capabilities: str) -> dict[str, Any]:
    return {"args": ["sh"], "capabilities": {"bounding": list(capabilities), "effective": list(capabilities)}}


def test_bounding_set_is_read_by_name() -> None:
    assert bounding_set(NO_RESOURCE) == ALL - {"CAP_SYS_RESOURCE"}
    assert bounding_set("CapBnd:\t0000000000000021") == {"CAP_CHOWN", "CAP_KILL"}


@pytest.mark.parametrize(
    ("allowed", "last", "expected"),
    [
        (ALL, 40, []),
        (ALL - {"CAP_SYS_RESOURCE"}, 40, ["CAP_SYS_RESOURCE"]),
        (ALL - {"CAP_CHECKPOINT_RESTORE"}, 39, []),  # a kernel that does not know it does not lack it
    ],
)
def test_missing_capabilities(allowed: frozenset[str], last: int, expected: list[str]) -> None:
    assert lacking(allowed, last) == expected


def test_every_kind_of_set_is_bounded_and_the_order_kept() -> None:
    asked = process("CAP_SYS_RESOURCE", "CAP_KILL", "CAP_CHOWN")
    assert bounded(asked, ALL - {"CAP_SYS_RESOURCE"}) == process("CAP_KILL", "CAP_CHOWN")
    assert asked == process("CAP_SYS_RESOURCE", "CAP_KILL", "CAP_CHOWN")


@pytest.mark.parametrize("asked", [process("CAP_KILL"), {"args": ["sh"]}, {"args": [], "capabilities": None}])
def test_complete_set_is_unchanged(asked: dict[str, Any]) -> None:
    assert bounded(asked, ALL) == asked


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--root /r --log /l create --bundle /b --pid-file p id", (Path("/b/config.json"), True)),
        ("run -b /b id", (Path("/b/config.json"), True)),
        ("create id", (Path("config.json"), True)),
        ("--root /r exec --process /tmp/p --detach id", (Path("/tmp/p"), False)),
        ("exec id sh", None),
        ("kill id 9", None),
    ],
)
def test_document_of_a_runc_call(arguments: str, expected: tuple[Path, bool] | None) -> None:
    assert document(arguments.split()) == expected
