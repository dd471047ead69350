"""The peft backend without torch: the settings of the libraries that follow from a spec."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tuneyard_api.contracts.requests import TrainRequest
from tuneyard_api.kinds.training import Lora, Training
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
        native=Path("native"),
        events=Path("events"),
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


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_lora(variant: str) -> None:
    lora = {"rank": 8, "alpha": 16, "dropout": 0.05, "variant": variant}
    assert config(lora=lora).lora_config == {
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "use_rslora": variant == "rslora",
        "use_dora": variant == "dora",
        "task_type": "CAUSAL_LM",
    }


@pytest.mark.parametrize(("method", "rate"), [("lora", 2e-4), ("qlora", 2e-4), ("full", 2e-5)])
def test_each_method_has_its_learning_rate(method: str, rate: float) -> None:
    assert config(method=method).training_arguments["learning_rate"] == rate
    assert config(method=method, learningRate=1e-3).training_arguments["learning_rate"] == 1e-3


def test_a_full_tuning_has_no_adapter() -> None:
    assert Training.model_validate({"method": "full", "lora": {"rank": 16}}).lora == Lora(), "as good as none"
    with pytest.raises(ValidationError, match=r"leave training\.lora out"):
        Training.model_validate({"method": "full", "lora": {"rank": 8}})


def test_request_survives_json() -> None:
    request = config(devices=2)
    assert PeftRequest.model_validate_json(request.model_dump_json(by_alias=True)) == request
