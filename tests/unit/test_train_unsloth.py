"""The unsloth backend without torch: its settings, and what prepare refuses."""

from pathlib import Path
from typing import Any

import pytest

from tuneyard_api.contracts.requests import TrainRequest
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.backends import check_training
from tuneyard_trainer.backends.unsloth.backend import ADAPTED, UnslothRequest, native_config
from tuneyard_trainer.runtime.errors import BadInput


def config(**training: Any) -> UnslothRequest:
    return native_config(
        TrainRequest(
            model=Path("base"),
            model_uri="s3://models/a",
            rows=Path("rows"),
            training=Training.model_validate({"backend": "unsloth", **training}),
            steps=100,
            gpus=1,
            devices=1,
            checkpoints=Path("checkpoints"),
            output=Path("adapter"),
            native=Path("native"),
            events=Path("events"),
            stop_file=Path("stop"),
        )
    )


def test_a_qlora_job() -> None:
    lora = {"rank": 8, "alpha": 16, "dropout": 0.05, "variant": "rslora"}
    made = config(method="qlora", lora=lora, maxLength=2048, gradientCheckpointing=True, seed=7)
    assert made.loaded.model_dump() == {
        "max_seq_length": 2048,
        "dtype": "bfloat16",
        "load_in_4bit": True,
        "random_state": 7,
    }
    assert made.adapter.model_dump() == {
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "target_modules": list(ADAPTED),
        "use_rslora": True,
        "bias": "none",
        "use_gradient_checkpointing": "unsloth",
        "random_state": 7,
    }
    assert UnslothRequest.model_validate_json(made.model_dump_json(by_alias=True)) == made


def test_a_lora_job_in_float32() -> None:
    made = config(precision="fp32", lora={"targetModules": ["v_proj", "q_proj"]}, packing=False)
    assert (made.loaded.load_in_4bit, made.loaded.dtype) == (False, "float32")
    assert (made.adapter.target_modules, made.adapter.use_gradient_checkpointing) == (["q_proj", "v_proj"], False)
    assert made.training_arguments["bf16"] is False


def test_batch_and_schedule() -> None:
    made = config(effectiveBatchSize=16, microBatchSize=2, scheduler="constant", warmupRatio=0.1).training_arguments
    assert (made["per_device_train_batch_size"], made["gradient_accumulation_steps"]) == (2, 8)
    assert (made["lr_scheduler_type"], made["warmup_steps"], made["max_steps"]) == ("constant_with_warmup", 10, 100)


@pytest.mark.parametrize(
    ("training", "resources", "message"),
    [
        ({}, {"gpus": 0}, "unsloth needs a GPU"),
        ({}, {"gpus": 2}, "trains on 1 GPU, and resources ask for 2"),
        ({}, {"gpus": 1, "nodes": 2}, "trains on 1 GPU, and resources ask for 2"),
        ({"lora": {"targetModules": ["lm_head"]}}, {}, "does not adapt lm_head"),
    ],
)
def test_what_it_cannot_do_is_refused(training: dict[str, Any], resources: dict[str, Any], message: str) -> None:
    spec = {
        "model": {"uri": "s3://models/a"},
        "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
        "training": {"backend": "unsloth", **training},
        "output": {"uri": "s3://artifacts/a"},
        "resources": resources,
    }
    with pytest.raises(BadInput, match=message):
        check_training(FineTuneJobSpec.model_validate(spec))


def test_one_gpu_is_what_it_needs() -> None:
    spec = {
        "model": {"uri": "s3://models/a"},
        "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
        "training": {"backend": "unsloth", "method": "qlora"},
        "output": {"uri": "s3://artifacts/a"},
    }
    check_training(FineTuneJobSpec.model_validate(spec))
