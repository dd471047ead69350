"""The event files of a training, and the events by which the stage gets the same metrics."""

import math
from pathlib import Path

import pytest
from tensorboardX.record_writer import RecordWriter

from support.eventfiles import events_in, shown
from tuneyard_api.contracts.requests import WORKER_EVENT, MetricsLogged
from tuneyard_trainer.backends import scalars
from tuneyard_trainer.backends.scalars import Scalars
from tuneyard_trainer.runtime.worker_main import RECORD


def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def logged(output: str) -> list[MetricsLogged]:
    events = [WORKER_EVENT.validate_json(line[1:]) for line in output.split("\n") if line.startswith(RECORD)]
    assert all(isinstance(event, MetricsLogged) for event in events)
    return [event for event in events if isinstance(event, MetricsLogged)]


def test_what_is_known_and_finite_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Scalars(tmp_path / "events", 0)
    run.log(1, {"train/loss": 2.5, "train/grad_norm": math.nan, "eval/preference_accuracy": None})
    run.close()
    assert shown(files(tmp_path / "events")) == {"train/loss": [(1, 2.5)]}
    assert logged(capsys.readouterr().out) == [MetricsLogged(step=1, metrics={"train/loss": 2.5})]
    assert events_in(files(tmp_path / "events")[0])[0].file_version == "brain.Event:2"


def test_each_step_is_shown_once_after_a_resume(tmp_path: Path) -> None:
    """The first process was killed after step 5, and its checkpoint is that of step 3; a third one begins anew."""
    for done, steps in ((0, range(1, 6)), (3, range(4, 8))):
        run = Scalars(tmp_path, done)
        for step in steps:
            run.log(step, {"train/loss": step + done / 10})
        run.close()
    points = shown(files(tmp_path))["train/loss"]
    assert [step for step, _ in points] == list(range(1, 8))
    assert [loss for _, loss in points] == pytest.approx([1, 2, 3, 4.3, 5.3, 6.3, 7.3])
    again = Scalars(tmp_path, 0)
    again.log(1, {"train/loss": 9.0})
    again.close()
    assert shown(files(tmp_path)) == {"train/loss": [(1, 9.0)]}


def test_a_checkpoint_has_all_that_was_logged_before_it(tmp_path: Path) -> None:
    run = Scalars(tmp_path, 0)
    for step in range(1, 51):
        run.log(step, {"train/loss": 1.0})
    run.flush()
    assert len(shown(files(tmp_path))["train/loss"]) == 50
    run.close()


@pytest.mark.parametrize("steps", [1, 1000])
def test_a_full_disk_ends_the_file_and_not_the_training(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scalars, "RecordWriter", lambda path: RecordWriter("/dev/full"))
    run = Scalars(tmp_path, 0)
    for step in range(steps):
        run.log(step, {"train/loss": 1.0})
    run.flush()
    run.log(steps, {"train/loss": 1.0})
    run.close()
    output = capsys.readouterr().out
    assert output.count("No space left on device") == 1
    assert len(logged(output)) == steps + 1
