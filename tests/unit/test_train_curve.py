"""The course of a training run: how often it is validated, which step is the best, and what the curve says."""

import pytest

from tuneyard_api.contracts.results import ArtifactRef, TrainResult
from tuneyard_api.contracts.termination import CURVE_POINTS, TrainReport
from tuneyard_api.kinds.finetunejob_status import CurvePoint, TrainingStatus
from tuneyard_trainer.backends.curve import best, curve, has_stalled, mean_loss, validation_steps, verdict


def points(*losses: float, every: int = 5) -> list[CurvePoint]:
    return [CurvePoint(step=every * index, validation_loss=loss) for index, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("every", "steps", "batch_tokens", "validation_tokens", "expected"),
    [
        pytest.param(3, 100, 1, 10**6, 3, id="as the spec says"),
        pytest.param(None, 2000, 8000, 50_000, 100, id="20 times"),
        pytest.param(None, 40, 1600, 6400, 7, id="a fifth of the training at most"),
        pytest.param(None, 4, 100, 10**6, 4, id="only at the end"),
        pytest.param(None, 1, 100, 0, 1, id="no held-out rows"),
    ],
)
def test_how_often_a_run_is_validated(
    every: int | None, steps: int, batch_tokens: float, validation_tokens: int, expected: int
) -> None:
    assert validation_steps(every, steps, batch_tokens, validation_tokens) == expected


def test_the_curve_has_the_training_loss_between_validations() -> None:
    log = [
        {"step": 0, "validation_loss": 4.0},
        {"step": 1, "loss": 3.0},
        {"step": 2, "validation_loss": 2.5},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 1.0},
        {"step": 4, "validation_loss": 2.0},
        {"step": 4, "loss": 0.5},
    ]
    assert [(point.step, point.loss, point.validation_loss) for point in curve(log)] == [
        (0, None, 4.0),
        (2, 2.5, 2.5),
        (4, 0.75, 2.0),
    ]
    assert mean_loss(log) == pytest.approx(6.5 / 4)


def test_the_best_step_is_the_first_of_equals() -> None:
    found = best(points(3, 2, 1, 1, 2))
    assert found is not None
    assert found.step == 10
    assert best([]) is None


@pytest.mark.parametrize(
    ("losses", "patience", "stalled"),
    [
        ((3, 2, 1), 1, False),
        ((3, 2, 2), 1, True),
        ((3, 2, 2.5, 1.9), 2, False),
        ((3, 2, 2.5, 2.1), 2, True),
        ((3, 2, 9, 9, 9), None, False),
        ((), 1, False),
    ],
)
def test_when_a_run_has_stalled(losses: tuple[float, ...], patience: int | None, stalled: bool) -> None:
    assert has_stalled(points(*losses), patience) is stalled


@pytest.mark.parametrize(
    ("losses", "begins"),
    [
        ((2, 2.1, 2.2), "The validation loss never fell below the 2 of step 0"),
        ((3, 1.2, 1.5), "Overfitting after step 5: the validation loss rose from 1.2 to 1.5."),
        ((3, 2, 1.5), "Underfitting: the validation loss still fell at the last step, from 2 to 1.5."),
        ((3, 1.505, 1.5), "The validation loss has settled at 1.5."),
    ],
)
def test_what_the_curve_says(losses: tuple[float, ...], begins: str) -> None:
    said = verdict(points(*losses))
    assert said is not None
    assert said.startswith(begins)


def test_one_validation_says_nothing() -> None:
    assert verdict(points(2)) is verdict([]) is None


@pytest.mark.parametrize("kept", [0, 5, 3 * 5, 101 * 5, 199 * 5])
def test_a_status_shows_a_few_points_and_the_kept_one(kept: int) -> None:
    training = TrainingStatus(steps=1000, kept_step=kept, curve=points(*range(200)))
    result = TrainResult(training=training, adapter=ArtifactRef(uri="s3://a", digest="sha256:" + "a" * 64))
    report = TrainReport.of(result)
    shown = [point.step for point in report.training.curve]
    assert {0, kept, 199 * 5} <= set(shown)
    assert len(shown) <= CURVE_POINTS
    assert [len(smaller.training.curve) <= CURVE_POINTS // 2 for smaller in report.reduced()] == [True] * 4
    assert result.training.curve == training.curve


def test_a_short_curve_is_shown_whole() -> None:
    training = TrainingStatus(steps=9, kept_step=5, curve=points(3, 2, 1))
    result = TrainResult(training=training, adapter=ArtifactRef(uri="s3://a", digest="sha256:" + "a" * 64))
    assert TrainReport.of(result).training == training
