"""The health scripts for Argo CD, over recorded states, in Lua 5.1. tests/argocd asks Argo CD's own evaluator."""

from pathlib import Path
from typing import Any

import lupa.lua51 as lua
import pytest
import yaml

from support.healthstates import STATES
from tuneyard_api.kinds import KINDS
from tuneyard_api.names import GROUP

FOLDER = Path(__file__).parents[2] / "docs" / "argocd"


def cases() -> list[Any]:
    found = []
    for listed in sorted(FOLDER.glob("*/*/health_test.yaml")):
        for case in yaml.safe_load(listed.read_text())["tests"]:
            expected = case["healthStatus"]
            found.append(pytest.param(listed.parent, case["inputPath"], expected, id=case["inputPath"]))
    return found


def evaluate(script: str, obj: dict[str, Any]) -> dict[str, str]:
    """The health by a script, whose global `obj` is the object."""
    runtime = lua.LuaRuntime(unpack_returned_tuples=True)
    runtime.globals()["obj"] = runtime.table_from(obj, recursive=True)
    return dict(runtime.execute(script))


@pytest.mark.parametrize(("folder", "path", "expected"), cases())
def test_health(folder: Path, path: str, expected: dict[str, str]) -> None:
    obj = yaml.safe_load((folder / path).read_text())
    assert evaluate((folder / "health.lua").read_text(), obj) == expected


def test_every_kind_has_all_kinds_of_health() -> None:
    assert set(STATES) == {kind.kind for kind in KINDS}
    assert sum(map(len, STATES.values())) >= 30
    for states in STATES.values():
        assert {state.health for state in states} == {"Progressing", "Healthy", "Degraded", "Suspended"}


def test_config_map_has_the_scripts() -> None:
    """What a user installs is what was tested."""
    installed = yaml.safe_load((FOLDER / "argocd-cm.yaml").read_text())["data"]
    scripts = {path.parent.name: path.read_text() for path in FOLDER.glob("*/*/health.lua")}
    assert installed == {f"resource.customizations.health.{GROUP}_{kind}": text for kind, text in scripts.items()}
