"""The loss that other backends are compared with, in images of their own: tests/integration_axolotl."""

import pytest

from integration.conftest import ContextFactory
from support.parity import PEFT_LOSS, TRAINING
from tuneyard_api.contracts.results import TrainResult
from tuneyard_trainer.stages import run_stage


def test_the_loss_of_peft(new_context: ContextFactory) -> None:
    outcome = run_stage(new_context("train", training=TRAINING))
    assert isinstance(outcome.result, TrainResult), outcome
    loss = min(point.validation_loss for point in outcome.result.training.curve)
    assert loss == pytest.approx(PEFT_LOSS, rel=1e-3)
