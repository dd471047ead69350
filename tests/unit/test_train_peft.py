"""The peft backend without torch: the settings of the libraries that follow from a spec."""

from pathlib import Path
from typing import Any

import pytest

from tuneyard_api.contracts.requests import TrainRequest
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.backends.peft.backend import PeftRequest, native_config


def config(devices: int = 1, steps: int = 100, **training: Any) -> PeftRequest:
    request = TrainRequest(
        model=Path("model"),
        model_uri="s3://models/a",
        rows=Path("rows"),
        training=Training.model_validate(training),
        steps=steps,
        gpus=0,
        devices=devices,
        checkpoints=Path("checkpoints"),
        output=Path("adapter"),
        stop_file=Path("stop"),
    )
    return native_config(request)


@pytest.mark.parametrize(
    ("training", "devices", "micro", "accumulation"),
    [
        ({}, 1, 8, 2),
        ({"effectiveBatchSize": 16, "microBatchSize": 2}, 4, 2, 2),
        ({"effectiveBatchSize": 1}, 1, 1, 1),
    ],
)
def test_batch(training: dict[str, int], devices: int, micro: int, accumulation: int) -> None:
    arguments = config(devices, **training).training_arguments
    assert arguments["per_device_train_batch_size"] == micro
    assert arguments["gradient_accumulation_steps"] == accumulation


def test_schedule() -> None:
    arguments = config(steps=200, learningRate=1e-3, warmupRatio=0.1).training_arguments
    assert (arguments["max_steps"], arguments["learning_rate"], arguments["warmup_steps"]) == (200, 1e-3, 20)
    assert arguments["lr_scheduler_type"] == "cosine"
    assert config(scheduler="constant").training_arguments["lr_scheduler_type"] == "constant_with_warmup"


@pytest.mark.parametrize("checkpointing", [True, False])
def test_memory(checkpointing: bool) -> None:
    arguments = config(gradientCheckpointing=checkpointing, precision="fp32").training_arguments
    assert arguments["activation_checkpointing"] is checkpointing
    assert arguments["activation_checkpointing_kwargs"] == ({"use_reentrant": False} if checkpointing else None)
    assert arguments["bf16"] is False


def test_lora() -> None:
    lora = {"rank": 8, "alpha": 16, "dropout": 0.05, "variant": "rslora"}
    assert config(lora=lora).lora_config == {
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "use_rslora": True,
        "task_type": "CAUSAL_LM",
    }


def test_request_survives_json() -> None:
    request = config(devices=2)
    assert PeftRequest.model_validate_json(request.model_dump_json(by_alias=True)) == request
