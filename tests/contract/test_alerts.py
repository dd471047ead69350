"""The alerts in Prometheus' own evaluation: what makes each fire, and what does not."""

import subprocess
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from support.apiserver import CACHE
from support.docs import ROOT

PROMTOOL: Final = CACHE / "bin" / "promtool"
ALERTS: Final = ROOT / "charts" / "tuneyard" / "files" / "alerts.yaml"
JOB: Final = 'namespace="a",tuneyard_dev_finetunejob="bot",stage="train"'
SERVER: Final = 'namespace="a",tuneyard_dev_modelserver="bot"'
UP: Final = {'tuneyard_workqueue_depth{kind="FineTuneJob"}': "0x120"}


class Case(NamedTuple):
    """Series at one-minute intervals in promtool's notation, and when the alert is looked at."""

    alert: str
    fires: bool
    series: dict[str, str]
    minute: int = 60


def _step(values: str) -> dict[str, str]:
    return {f"tuneyard_train_step{{{JOB}}}": values, f"tuneyard_train_steps{{{JOB}}}": "100x120"}


def _first_token(late: str) -> dict[str, str]:
    name = f"vllm:time_to_first_token_seconds_bucket{{{SERVER}"
    return {f'{name},le="1"}}': "0x120", f'{name},le="20"}}': late, f'{name},le="+Inf"}}': "0+60x120"}


CASES: Final = (
    Case("TuneyardOperatorDown", True, {}),
    Case("TuneyardOperatorDown", False, UP),
    Case(
        "TuneyardReconcilesFail",
        True,
        {'tuneyard_reconcile_retries_total{kind="FineTuneJob",reason="Conflict"}': "0+6x120"},
    ),
    Case(
        "TuneyardReconcilesFail",
        False,
        {'tuneyard_reconcile_retries_total{kind="FineTuneJob",reason="Conflict"}': "0+1x120"},
    ),
    Case("TuneyardWorkqueueGrows", True, {'tuneyard_workqueue_depth{kind="FineTuneJob"}': "0+2x120"}),
    Case("TuneyardWorkqueueGrows", False, UP),
    Case("TuneyardFineTuneJobFailed", True, {'tuneyard_finetunejobs{phase="Failed"}': "0x54 1x60"}),
    Case("TuneyardFineTuneJobFailed", True, {'tuneyard_finetunejobs{phase="Failed"}': "_x54 1x60"}),
    Case("TuneyardFineTuneJobFailed", False, {'tuneyard_finetunejobs{phase="Failed"}': "1x120"}),
    Case("TuneyardFineTuneJobFailed", False, {'tuneyard_finetunejobs{phase="Failed"}': "3x54 2x60"}),
    Case("TuneyardTrainingStalls", True, _step("0+1x20 20x100")),
    Case("TuneyardTrainingStalls", False, _step("0+1x100")),
    Case("TuneyardTrainingStalls", False, _step("_x50 0x50")),
    Case("TuneyardTrainingStalls", False, _step("100x120")),
    Case("TuneyardTrainingDiverges", True, {f"tuneyard_train_loss{{{JOB}}}": "2x30 5x90"}),
    Case("TuneyardTrainingDiverges", False, {f"tuneyard_train_loss{{{JOB}}}": "5x30 2x90"}),
    Case("TuneyardModelServerUnavailable", True, {'tuneyard_modelservers{available="false"}': "1x120"}),
    Case("TuneyardModelServerUnavailable", False, {'tuneyard_modelservers{available="false"}': "0x40 1x80"}),
    Case("TuneyardServerQueueGrows", True, {f"vllm:num_requests_waiting{{{SERVER}}}": "25x120"}),
    Case("TuneyardServerQueueGrows", False, {f"vllm:num_requests_waiting{{{SERVER}}}": "3x55 25x60"}),
    Case("TuneyardServerFirstTokenLate", True, _first_token("0+60x120")),
    Case(
        "TuneyardServerFirstTokenLate",
        False,
        {f'vllm:time_to_first_token_seconds_bucket{{{SERVER},le="{le}"}}': "0+60x120" for le in ("1", "+Inf")},
    ),
    Case("TuneyardServerCacheFull", True, {f"vllm:kv_cache_usage_perc{{{SERVER}}}": "0.99x120"}),
    Case("TuneyardServerCacheFull", False, {f"vllm:kv_cache_usage_perc{{{SERVER}}}": "0.5x120"}),
)


def promtool_test(case: Case) -> dict[str, Any]:
    query = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}})'
    samples = [{"labels": "{}", "value": 1}] if case.fires else []
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": f"{case.minute}m", "exp_samples": samples}],
    }


def promtool(*words: str) -> str:
    assert PROMTOOL.exists(), "make test-tools brings it"
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_valid() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.fires else 'is-silent'}")
def test_alert(case: Case, tmp_path: Path) -> None:
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [promtool_test(case)]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "test.yaml"))


def test_every_alert_fires_and_is_silent() -> None:
    rules = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    for fires in (True, False):
        assert {case.alert for case in CASES if case.fires is fires} == set(rules)
