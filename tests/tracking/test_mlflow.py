"""A training's metrics in a real MLflow server. `make tracking` installs it on the way: 600 MB."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from support.memorystore import MemoryStore
from tuneyard_api.contracts.requests import MetricsLogged
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.tracking import Tracking
from tuneyard_trainer.tracking import mlflow as tracker
from tuneyard_trainer.tracking.mlflow_api import RunState

VERSION: Final = "3.17.2"
PORT: Final = 5917
URI: Final = f"http://127.0.0.1:{PORT}"
SPEC: Final = {
    "model": {"uri": "s3://models/a"},
    "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
    "output": {"uri": "s3://bucket/out"},
    "training": {"tracking": {"mlflow": {"secretRef": {"name": "mlflow"}, "experiment": "support bot"}}},
}


class Mlflow:
    """A server that can be stopped, and goes on with what it has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        tool = [os.environ["UV"], "tool", "run", "--from", f"mlflow=={VERSION}", "mlflow", "server"]
        options = [
            "--host",
            "127.0.0.1",
            "--port",
            str(PORT),
            "--workers",
            "1",
            "--backend-store-uri",
            "sqlite:///a.db",
        ]
        self.process = subprocess.Popen([*tool, *options], cwd=self.folder, start_new_session=True)
        end = time.monotonic() + 600
        while not self._is_ready():
            assert time.monotonic() < end
            assert self.process.poll() is None
            time.sleep(1)

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, 15)
            self.process.wait()
            self.process = None

    def _is_ready(self) -> bool:
        try:
            return bool(urlopen(f"{URI}/health").status == 200)  # noqa: S310 - on this machine
        except URLError:
            return False

    def ask(self, path: str, **content: Any) -> Any:
        request = Request(  # noqa: S310 - on this machine
            f"{URI}/api/2.0/mlflow/{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        return json.load(urlopen(request))  # noqa: S310


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    server = Mlflow(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


def pod(steps: range, state: RunState | None, digest: str = "b" * 64) -> Tracking:
    spec = FineTuneJobSpec.model_validate(SPEC)
    secret = {"MLFLOW_TRACKING_URI": URI}
    context = StageContext("train", "bot", spec, MemoryStore(), Path(), digests={"train": digest}, tracking=secret)
    tracking = Tracking(context, Path("/nonexistent"))
    for step in steps:
        tracking.log(MetricsLogged(step=step, metrics={"train/loss": 3 - step / 1000, "eval/loss": 2.0}))
    if state:
        ended = tracking.end(state).mlflow
        assert ended
        assert (ended.lost, ended.message) == (0, None)
    return tracking


def history(mlflow: Mlflow, run: str) -> list[int]:
    with urlopen(f"{URI}/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=train/loss") as answer:  # noqa: S310
        return [metric["step"] for metric in json.load(answer)["metrics"]]


def test_three_pods_and_a_server_that_was_away(mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "END_SECONDS", 120)  # a server that has just started is slow on a busy machine
    pod(range(1, 501), "SCHEDULED")
    mlflow.stop()
    second = pod(range(400, 1001), None)
    time.sleep(2)  # it has tried in vain
    mlflow.start()
    ended = second.end("SCHEDULED").mlflow
    assert ended
    assert (ended.lost, ended.message) == (0, None)
    pod(range(1001, 1011), "FINISHED")

    (experiment,) = mlflow.ask("experiments/search", max_results=5, filter="name = 'support bot'")["experiments"]
    (run,) = mlflow.ask("runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
    assert run["info"]["run_id"] == ended.run_id
    assert run["info"]["status"] == "FINISHED"
    assert {"key": "training.lora.rank", "value": "16"} in run["data"]["params"]
    assert history(mlflow, run["info"]["run_id"]) == list(range(1, 1011))
