"""docs/metrics.md lists every metric, and dashboards and alerts use no other."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.docs import ROOT, section
from tuneyard_operator.finetunejob.metrics import STAGES
from tuneyard_operator.machinery.metrics import Exporter
from tuneyard_operator.main import CONTROLLERS, METRICS_PREFIX
from tuneyard_trainer.runtime.progress import METRICS

DOCUMENT = ROOT / "docs" / "metrics.md"
FILES = ROOT / "charts" / "tuneyard" / "files"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
ALERTS = yaml.safe_load((FILES / "alerts.yaml").read_text())
NAME = re.compile(r"\b(?:tuneyard_(?!dev_)|vllm:)[a-z_]+")


def listed(heading: str) -> dict[str, list[str]]:
    """The other cells of a table, by the metric in the first."""
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", section(DOCUMENT, heading), re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in rows}


def operator_metrics() -> dict[str, str]:
    """The type of each metric that an operator exposes, by its name in PromQL."""
    exporter = Exporter(METRICS_PREFIX, CONTROLLERS, lambda: {"FineTuneJob": 0}, lambda kind: Counter({"x": 1}))
    STAGES.labels("train")
    families = [*exporter.collect(), *STAGES.collect()]
    return {f"{family.name}{'_total' if family.type == 'counter' else ''}": family.type for family in families}


def test_metrics_of_the_operator_are_listed() -> None:
    assert {name: cells[0] for name, cells in listed("## Of the operator").items()} == operator_metrics()


def test_metrics_of_stages_are_listed() -> None:
    assert set(listed("## Of a stage")) == set(METRICS)


def test_alerts_are_listed() -> None:
    rules = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
    table = listed("## Alerts")
    assert {name: rule["labels"]["severity"] for name, rule in rules.items()} == {
        name: cells[0] for name, cells in table.items()
    }
    assert all({"summary", "description"} == set(rule["annotations"]) for rule in rules.values())


def expressions(dashboard: Any) -> list[str]:
    variables = [each["query"] for each in dashboard["templating"]["list"]]
    return [*variables, *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])]


def known() -> set[str]:
    """Names in PromQL; a histogram has three."""
    tables = [listed(heading) for heading in ("## Of the operator", "## Of a stage", "## Of a server")]
    found = {name: cells[0] for table in tables for name, cells in table.items()}
    parts = {
        f"{name}_{part}" for name, kind in found.items() if kind == "histogram" for part in ("bucket", "sum", "count")
    }
    return {name for name, kind in found.items() if kind != "histogram"} | parts


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboards_use_listed_metrics(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    used = {name for text in expressions(dashboard) for name in NAME.findall(text)}
    assert len(used) > 5
    assert used - known() == set()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_alerts_use_listed_metrics() -> None:
    used = {name for group in ALERTS["groups"] for rule in group["rules"] for name in NAME.findall(rule["expr"])}
    assert used - known() == set()


def test_dashboards_have_their_own_ids() -> None:
    ids = [json.loads(path.read_text())["uid"] for path in DASHBOARDS]
    assert len(set(ids)) == len(ids) == 2
