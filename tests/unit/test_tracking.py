"""The metrics of a training in an MLflow server: one run for all its pods, and a server that is away harms nothing."""

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.memorystore import MemoryStore
from support.mlflowserver import MlflowServer, mlflow_server, self_signed
from tuneyard_api.contracts.requests import MetricsLogged
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import TryAgain
from tuneyard_trainer.tracking import Tracked, Tracking, mlflow, tracked
from tuneyard_trainer.tracking.mlflow_api import settings_from
from tuneyard_trainer.tracking.secret import files_of, variables_of

DIGEST = "a" * 64
SPEC: dict[str, Any] = {
    "model": {"uri": "s3://models/a"},
    "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
    "output": {"uri": "s3://bucket/out"},
    "training": {
        "lora": {"rank": 8},
        "tracking": {"mlflow": {"secretRef": {"name": "mlflow"}, "experiment": "support"}},
    },
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    monkeypatch.setattr(mlflow, "SEND_SECONDS", 0.02)
    with mlflow_server() as found:
        yield found


def context_of(uri: str | None, tmp_path: Path, secret: dict[str, str] | None = None) -> StageContext:
    values = ({"MLFLOW_TRACKING_URI": uri} if uri else {}) | (secret or {})
    spec = FineTuneJobSpec.model_validate(SPEC)
    return StageContext("train", "bot", spec, MemoryStore(), tmp_path, digests={"train": DIGEST}, tracking=values)


def train(tracking: Tracking, *steps: int) -> None:
    for step in steps:
        tracking.log(MetricsLogged(step=step, metrics={"train/loss": 3 - step / 10, "train/learning_rate": 1e-4}))


def wait_for(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_run_with_its_parameters_values_and_end(server: MlflowServer, tmp_path: Path) -> None:
    context = context_of(server.uri, tmp_path, {"MLFLOW_TRACKING_TOKEN": "t0ken\n"})
    tracking = Tracking(context, tmp_path / "events")
    train(tracking, *range(1, 1001))  # more values than a request may have
    said = tracking.end("FINISHED").mlflow

    run = server.runs[server.only_run]
    assert said is not None
    assert (said.url, said.lost, said.message) == (f"{server.uri}/#/experiments/1/runs/run0", 0, None)
    assert context.progress.report().tracking_url == said.url
    assert server.experiments == {"support": "1"}
    assert (run["name"], run["status"]) == ("bot", "FINISHED")
    assert run["end_time"] is not None
    assert run["tags"]["tuneyard.dev/finetunejob"] == "bot"
    assert run["params"]["training.lora.rank"] == "8"
    assert run["params"]["model.uri"] == "s3://models/a"
    assert not any("tracking" in key for key in run["params"])
    assert server.values("run0", "train/loss") == [(step, 3 - step / 10) for step in range(1, 1001)]
    assert {headers.get("Authorization") for headers in server.headers} == {"Bearer t0ken"}


def test_a_resumed_training_goes_on_with_its_run(server: MlflowServer, tmp_path: Path) -> None:
    """The first pod is stopped after step 5; the second one begins again at the checkpoint of step 3."""
    with pytest.raises(TryAgain), tracked(context_of(server.uri, tmp_path), tmp_path / "events") as first:
        train(first, 1, 2, 3, 4, 5)
        raise TryAgain("Preempted", "stopped", "")
    assert server.runs["run0"]["status"] == "SCHEDULED"
    assert server.runs["run0"]["end_time"] is None

    with tracked(context_of(server.uri, tmp_path), tmp_path / "events") as second:
        wait_for(lambda: server.runs["run0"]["status"] == "RUNNING")
        train(second, 4, 5, 6, 7)
        assert second.end("FINISHED").mlflow == second.end("FAILED").mlflow
    assert [step for step, _ in server.values(server.only_run, "train/loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert server.runs["run0"]["status"] == "FINISHED"


def test_values_that_the_server_has_are_not_sent_again(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Tracking(context_of(server.uri, tmp_path), tmp_path / "events")
    train(first, 1, 2, 3, 4, 5)
    first.end("SCHEDULED")
    monkeypatch.setattr(mlflow, "SEND_SECONDS", 60)
    server.failing = 503
    second = Tracking(context_of(server.uri, tmp_path), tmp_path / "events")
    wait_for(lambda: server.calls[-1] == "experiments/get-by-name")
    train(second, 4, 5, 6)
    server.failing = None
    second.end("FINISHED")
    assert [step for step, _ in server.values(server.only_run, "train/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_fails_is_failed(server: MlflowServer, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracked(context_of(server.uri, tmp_path), tmp_path / "events"):
        wait_for(lambda: server.runs)
        raise ZeroDivisionError
    assert server.runs[server.only_run]["status"] == "FAILED"


def test_a_server_that_was_away_gets_everything(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.failing = 503
    tracking = Tracking(context_of(server.uri, tmp_path), tmp_path / "events")
    train(tracking, 1, 2)
    wait_for(lambda: len(server.calls) >= 3)
    server.failing = None
    wait_for(lambda: server.runs and len(server.values(server.only_run, "train/loss")) == 2)
    said = tracking.end("FINISHED").mlflow
    assert said is not None
    assert (said.lost, said.message) == (0, None)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "one for the whole time"
    assert "503: out of order" in warnings[0]
    assert "MLflow answers again." in caplog.text


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_stays_away_is_counted(tmp_path: Path) -> None:
    tracking = Tracking(context_of(f"http://user:pa55@127.0.0.1:{closed_port()}", tmp_path), tmp_path / "events")
    train(tracking, 1, 2, 3)
    started = time.monotonic()
    said = tracking.end("FINISHED").mlflow
    assert time.monotonic() - started < 2
    assert said is not None
    assert (said.url, said.run_id, said.lost) == (None, None, 6)
    assert said.message is not None
    assert "does not answer" in said.message
    assert "pa55" not in said.message


def test_a_server_that_hangs_delays_the_end_by_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "END_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracking = Tracking(context_of(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path), tmp_path / "events")
        train(tracking, 1)
        started = time.monotonic()
        said = tracking.end("FINISHED").mlflow
        assert time.monotonic() - started < 2
    assert said is not None
    assert said.lost == 2
    assert said.message == "the server had not answered when the training ended"


def test_the_oldest_values_go_when_too_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "WAITING", 4)
    tracking = Tracking(context_of(f"http://127.0.0.1:{closed_port()}", tmp_path), tmp_path / "events")
    train(tracking, *range(1, 6))
    said = tracking.end("FINISHED").mlflow
    assert said is not None
    assert said.lost == 10


def test_values_that_are_refused_are_counted(server: MlflowServer, tmp_path: Path) -> None:
    server.refuses_values = True
    tracking = Tracking(context_of(server.uri, tmp_path), tmp_path / "events")
    train(tracking, 1)
    said = tracking.end("FINISHED").mlflow
    assert said is not None
    assert said.lost == 2
    assert said.message is not None
    assert "400: a value is wrong" in said.message


def test_a_run_that_somebody_deletes_is_made_anew(server: MlflowServer, tmp_path: Path) -> None:
    tracking = Tracking(context_of(server.uri, tmp_path), tmp_path / "events")
    train(tracking, 1)
    wait_for(lambda: server.runs and server.values(server.only_run, "train/loss"))
    server.runs["later"] = {**server.runs.pop("run0"), "id": "later", "tags": {}}
    train(tracking, 2)
    wait_for(lambda: "run1" in server.runs)
    train(tracking, 3)
    said = tracking.end("FINISHED").mlflow
    assert said is not None
    assert (said.run_id, said.lost) == ("run1", 2)
    assert server.values("run1", "train/loss") == [(3, 2.7)]


def test_an_experiment_that_is_deleted(server: MlflowServer, tmp_path: Path) -> None:
    server.experiments["support"] = "7"
    server.deleted.add("support")
    said = Tracking(context_of(server.uri, tmp_path), tmp_path / "events").end("FINISHED").mlflow
    assert said is not None
    assert said.message == "the experiment support is deleted in MLflow: restore it, or name another one"


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ({}, "Secret mlflow does not exist or has no MLFLOW_TRACKING_URI"),
        ({"MLFLOW_TRACKING_URI": "databricks"}, "does not begin with https:// or http:// and a host"),
        ({"MLFLOW_TRACKING_URI": "https://mlflow:port"}, "does not begin with https:// or http:// and a host"),
        ({"MLFLOW_TRACKING_URI": "https://mlflow", "ca.crt": "no PEM"}, "ca.crt is not a certificate in PEM"),
        (
            {"MLFLOW_TRACKING_URI": "https://mlflow", "MLFLOW_TRACKING_TOKEN": "two\nlines"},
            "has a name, password or token with characters that no header can have",
        ),
    ],
)
def test_a_secret_that_is_wrong_is_said_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, secret: dict[str, str], says: str
) -> None:
    with tracked(context_of(None, tmp_path, secret), tmp_path / "events") as tracking:
        train(tracking, 1)
        said = tracking.end("FINISHED").mlflow
    assert said is not None
    assert said.lost == 2
    assert said.message is not None
    assert says in said.message
    assert says in caplog.text
    assert "two\nlines" not in caplog.text


def test_who_asks(tmp_path: Path) -> None:
    """As MLflow's own client: user and password come first, in the Secret or in the address."""
    both = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw", "MLFLOW_TRACKING_TOKEN": "t"}
    address = {"MLFLOW_TRACKING_URI": "https://host:5000/base/"}
    basic = settings_from(address | both, "x")
    assert (basic.root, basic.headers) == ("https://host:5000/base", {"authorization": "Basic bWU6cHc="})
    assert settings_from({"MLFLOW_TRACKING_URI": "https://me:pw@host:5000/base"}, "x") == basic
    assert settings_from(address, "x").headers == {}


def test_the_secret_s_files_and_variables(tmp_path: Path) -> None:
    (tmp_path / "MLFLOW_TRACKING_URI").write_text("http://a")
    (tmp_path / "ca.crt").write_text("PEM")
    (tmp_path / "other").write_text("x")
    assert files_of(tmp_path) == {"MLFLOW_TRACKING_URI": "http://a", "ca.crt": "PEM"}
    assert files_of(tmp_path / "absent") == {}
    environ = {"MLFLOW_TRACKING_URI": "http://a", "HOME": "/", "MLFLOW_TRACKING_SERVER_CERT_PATH": f"{tmp_path}/ca.crt"}
    assert variables_of(environ) == files_of(tmp_path)
    assert variables_of({"HOME": "/"}) == {}


def test_event_files_of_all_pods_are_in_the_store(tmp_path: Path) -> None:
    events, store = tmp_path / "events", MemoryStore()
    events.mkdir()
    context = context_of(None, tmp_path)
    context.store = store
    earlier = context.uri("train", "tensorboard", "events.1")
    store.write(earlier, b"of the pod before")
    tracking = Tracking(context, events)
    assert tracking.upload() is None
    (events / "events.2").write_bytes(b"one")
    tracking.upload()
    (events / "events.2").write_bytes(b"one two")
    ended = tracking.end("FINISHED")
    assert ended.tensorboard_uri == f"s3://bucket/out/runs/{DIGEST}/train/tensorboard"
    assert store.objects == {earlier: b"of the pod before", earlier.replace("events.1", "events.2"): b"one two"}


def test_a_job_without_tracking(tmp_path: Path) -> None:
    context = context_of(None, tmp_path)
    training = context.spec.training.model_copy(update={"tracking": None})
    context.spec = context.spec.model_copy(update={"training": training})
    tracking = Tracking(context, tmp_path / "events")
    train(tracking, 1)
    assert tracking.end("FINISHED") == Tracked(None, None)


def test_a_private_authority(tmp_path: Path) -> None:
    """A server whose certificate only the Secret's ca.crt vouches for."""
    certificate = tmp_path / "both.pem"
    certificate.write_text(self_signed("127.0.0.1"))
    with mlflow_server(certificate) as server:
        said = Tracking(context_of(server.uri, tmp_path), tmp_path / "events").end("FINISHED").mlflow
        assert said is not None
        assert said.message is not None
        assert "certificate verify failed" in said.message
        trusted = context_of(server.uri, tmp_path, {"ca.crt": certificate.read_text()})
        said = Tracking(trusted, tmp_path / "events").end("FINISHED").mlflow
        assert said is not None
        assert said.message is None
        assert server.runs[server.only_run]["status"] == "FINISHED"
