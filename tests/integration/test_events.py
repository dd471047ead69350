"""The metrics of a run as a tracking server and TensorBoard get them, over a stop and a resume."""

from pathlib import Path
from typing import Any

import pytest

from integration.conftest import ContextFactory
from support.eventfiles import Points, shown
from support.mlflowserver import mlflow_server
from tuneyard_api.contracts.results import TrainResult
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage
from tuneyard_trainer.tracking import mlflow

TRACKING = {"mlflow": {"secretRef": {"name": "mlflow"}}}


def scalars(store: S3Store, uri: str) -> dict[str, Points]:
    """What TensorBoard shows of the files of a folder."""
    return shown(store.read(item.uri) for item in sorted(store.list(f"{uri}/"), key=lambda item: item.uri))


def near(points: Points) -> list[Any]:
    """Event files have floats of 32 bits."""
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in points]


def trained(context: StageContext) -> TrainResult:
    outcome = run_stage(context)
    assert isinstance(outcome.result, TrainResult), outcome
    return outcome.result


def test_a_stopped_run_has_one_course(
    new_context: ContextFactory, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "SEND_SECONDS", 0.1)
    changes = {"output": {"uri": "s3://bucket/tracked"}, "training": {"tracking": TRACKING}}
    with mlflow_server() as server:
        stopped = new_context("train", **changes)
        stopped.tracking = {"MLFLOW_TRACKING_URI": server.uri}
        stopped.stopping.set()
        assert run_stage(stopped).exit_code == 75
        assert server.runs[server.only_run]["status"] == "SCHEDULED"
        context = new_context("train", **changes)
        context.tracking = {"MLFLOW_TRACKING_URI": server.uri}
        training = trained(context).training

        assert training.tensorboard_uri == context.uri("train", "tensorboard")
        found = scalars(store, context.uri("train", "tensorboard"))
        assert [step for step, _ in found["train/loss"]] == list(range(1, 13))
        for name in ("train/grad_norm", "train/learning_rate", "train/tokens_per_second"):
            assert len(found[name]) == 12
        course = [(point.step, point.validation_loss) for point in training.curve]
        assert found["eval/loss"] == near(course)
        assert len(list(store.list(f"{context.uri('train', 'tensorboard')}/"))) == 2

        assert training.mlflow is not None
        assert (training.mlflow.run_id, training.mlflow.lost) == (server.only_run, 0)
        run = server.runs[server.only_run]
        assert run["status"] == "FINISHED"
        assert server.values(server.only_run, "train/loss") == near(found["train/loss"])
        assert server.values(server.only_run, "eval/loss") == near(course)


def test_another_rung_begins_a_new_file(
    new_context: ContextFactory, store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The memory does not suffice in the third step of the first try: TensorBoard shows each step once."""
    limit = tmp_path / "limit"
    limit.mkdir()
    (limit / "sitecustomize.py").write_text(FAILS_ONCE.format(mark=str(tmp_path / "mark")))
    monkeypatch.setenv("PYTHONPATH", str(limit), prepend=":")
    context = new_context("train", output={"uri": "s3://bucket/rung"})
    training = trained(context).training
    assert len(training.rungs) == 1
    found = scalars(store, context.uri("train", "tensorboard"))
    assert [step for step, _ in found["train/loss"]] == list(range(1, 13))


# Of the first worker the third optimizer step fails.
FAILS_ONCE = """
import pathlib, sys
mark = pathlib.Path("{mark}")
if any("peft.worker" in word for word in sys.orig_argv) and not mark.exists():
    mark.touch()
    import torch
    step, calls = torch.optim.AdamW.step, []
    def failing(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *args, **options)
    torch.optim.AdamW.step = failing
"""
