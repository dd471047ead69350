"""What the documents claim exists: tests, conditions, reasons, phases."""

import ast
import re
from pathlib import Path
from typing import get_args

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob_status import Phase, StageState
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob.policies import POLICIES

ROOT = Path(__file__).parents[2]
OPERATOR = ROOT / "operator" / "src" / "tuneyard_operator"
LIFECYCLE = (ROOT / "docs" / "lifecycle.md").read_text()
CONDITIONS = (ROOT / "docs" / "conditions.md").read_text()


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def first_cells(section: str) -> set[str]:
    """The words in the first column of the tables under a heading."""
    body = CONDITIONS.split(f"## {section}\n")[1].split("\n## ")[0]
    return {word for row in re.findall(r"^\| (`[^|]+) \|", body, re.MULTILINE) for word in quoted(row)}


def condition_types(kind: str) -> set[str]:
    """Every type that status.py sets, but those of the stages: the first argument of Condition."""
    tree = ast.parse((OPERATOR / kind / "status.py").read_text())
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Condition"
    ]
    return {str(call.args[0].value) for call in calls if call.args and isinstance(call.args[0], ast.Constant)}


def declared_reasons() -> set[str]:
    return {value for key, value in vars(reasons).items() if key.isupper()}


def marked_rows() -> set[str]:
    """The rows of docs/lifecycle.md that the tests' markers name."""
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    markers = [names for source in sources for names in re.findall(r"@pytest\.mark\.lifecycle\((.*)\)", source)]
    return {name for names in markers for name in re.findall(r'"([^"]+)"', names)}


def test_every_row_of_a_life_has_a_test() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", LIFECYCLE.split("### How the operator decides")[0], re.MULTILINE)
    rows += re.findall(r"^\| ([^|]+) \|", LIFECYCLE.split("## ModelServer")[1], re.MULTILINE)
    anchors = [re.findall(r'<a id="([a-z-]+)"></a>', row) for row in rows if row != "when"]
    assert all(len(found) == 1 for found in anchors), "each row has an anchor"
    names = [name for (name,) in anchors]
    assert len(names) == len(set(names))
    assert set(names) == marked_rows()


def test_every_policy_is_documented_in_order() -> None:
    table = LIFECYCLE.split("### How the operator decides")[1].split("## ModelServer")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [policy.__name__ for policy in POLICIES]


def test_every_condition_is_documented_and_no_other() -> None:
    of_stages = {stage.condition for stage in STAGES.values()}
    assert first_cells("Conditions of a FineTuneJob") == condition_types("finetunejob") | of_stages
    assert first_cells("Conditions of a ModelServer") == condition_types("modelserver")


def test_every_reason_is_documented_and_no_other() -> None:
    assert first_cells("Reasons") | first_cells("Events of a FineTuneJob") == declared_reasons()


def test_states_and_phases_that_are_reasons_are_documented() -> None:
    assert {*get_args(Phase), *get_args(StageState)} - quoted(CONDITIONS) == set()
