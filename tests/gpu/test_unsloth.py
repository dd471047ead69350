"""The unsloth backend on a GPU: the train stage with a real store, Unsloth itself and a tiny model."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from integration.conftest import ContextFactory
from tuneyard_api import reasons
from tuneyard_api.contracts.results import TrainResult
from tuneyard_store.artifact import fetch_directory
from tuneyard_trainer.runtime.checkpoints import Checkpoints
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage

pytestmark = pytest.mark.gpu


def train(context: StageContext) -> TrainResult:
    outcome = run_stage(context)
    assert outcome.succeeded, outcome
    assert isinstance(outcome.result, TrainResult)
    return outcome.result


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_adapter_is_one_of_peft(new_context: ContextFactory, model: Path, tmp_path: Path, method: str) -> None:
    training = {"backend": "unsloth", "method": method, "evalSteps": 4}
    context = new_context("train", training=training, resources={"gpus": 1})
    result = train(context)
    losses = [point.validation_loss for point in result.training.curve]
    assert min(losses) < losses[0] - 0.1
    adapter = tmp_path / "adapter"
    assert result.adapter is not None
    manifest = fetch_directory(context.store, result.adapter.uri, adapter, result.adapter.digest)
    assert {file.path for file in manifest.files} == {"adapter_config.json", "adapter_model.safetensors"}
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapter)


def test_a_stopped_run_resumes(new_context: ContextFactory) -> None:
    changes = {"training": {"backend": "unsloth"}, "resources": {"gpus": 1}, "output": {"uri": "s3://bucket/stopped"}}
    stopped = new_context("train", **changes)
    stopped.stopping.set()
    assert run_stage(stopped).reason == reasons.PREEMPTED
    assert Checkpoints(stopped).steps() == [1]
    assert train(new_context("train", **changes)).training.steps == 12
