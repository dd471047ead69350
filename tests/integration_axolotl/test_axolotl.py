"""The axolotl backend as pods run it: the train stage with a real store, Axolotl itself and a tiny model on the CPU."""

import json
import math
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from axolotl.utils.schemas.config import AxolotlInputConfig
from peft import PeftModel
from transformers import AutoModelForCausalLM

from integration.conftest import ContextFactory, token_rows
from support.parity import PEFT_LOSS, TRAINING
from tuneyard_api import reasons
from tuneyard_api.contracts.results import TrainResult
from tuneyard_store.artifact import fetch_directory, read_manifest
from tuneyard_trainer.backends.axolotl.overrides import SETTINGS
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, TokenizedRow
from tuneyard_trainer.runtime.checkpoints import Checkpoints
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage


def axolotl(**training: Any) -> dict[str, Any]:
    return {"backend": "axolotl", **TRAINING, **training}


def train(context: StageContext) -> TrainResult:
    outcome = run_stage(context)
    assert outcome.succeeded, outcome
    assert isinstance(outcome.result, TrainResult)
    return outcome.result


def mean_loss(model: torch.nn.Module, rows: list[TokenizedRow]) -> float:
    """Over all trained tokens, row by row."""
    nll, tokens = 0.0, 0
    for row in rows:
        targets = torch.tensor([*row[LABELS][1:], IGNORED])
        with torch.no_grad():
            logits = model(torch.tensor([row[INPUT_IDS]])).logits[0].float()
        nll += torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum").item()
        tokens += int((targets != IGNORED).sum())
    return nll / tokens


def test_the_adapter_is_one_of_peft(new_context: ContextFactory, model: Path, tmp_path: Path) -> None:
    context = new_context("train", training=axolotl())
    result = train(context)
    curve = result.training.curve
    assert result.training.steps == 12
    assert [point.step for point in curve] == [0, 4, 8, 12]

    adapter = tmp_path / "adapter"
    assert result.adapter is not None
    manifest = fetch_directory(context.store, result.adapter.uri, adapter, result.adapter.digest)
    assert {file.path for file in manifest.files} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "s3://bucket/model"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    held_out = token_rows(12, 2)
    assert curve[0].validation_loss == pytest.approx(mean_loss(base, held_out), rel=1e-4)
    tuned = PeftModel.from_pretrained(base, adapter).eval()
    best = min(point.validation_loss for point in curve)
    assert mean_loss(tuned, held_out) == pytest.approx(best, rel=1e-4)
    assert best < curve[0].validation_loss - 0.1


def test_its_perplexity_is_that_of_the_peft_backend(new_context: ContextFactory) -> None:
    result = train(new_context("train", training=axolotl()))
    loss = min(point.validation_loss for point in result.training.curve)
    assert math.exp(loss) == pytest.approx(math.exp(PEFT_LOSS), rel=0.02)


def test_a_stopped_run_resumes_to_the_same_adapter(new_context: ContextFactory) -> None:
    expected = train(new_context("train", training=axolotl()))
    elsewhere = {"uri": "s3://bucket/stopped-axolotl"}
    stopped = new_context("train", training=axolotl(), output=elsewhere)
    stopped.stopping.set()
    outcome = run_stage(stopped)
    assert (outcome.exit_code, outcome.reason) == (75, reasons.PREEMPTED)
    assert Checkpoints(stopped).steps() == [1]

    resumed = train(new_context("train", training=axolotl(), output=elsewhere))
    assert resumed.training.curve == expected.training.curve
    assert resumed.adapter is not None
    assert expected.adapter is not None
    assert resumed.adapter.digest == expected.adapter.digest


def test_the_published_config_trains_by_itself(new_context: ContextFactory, model: Path, tmp_path: Path) -> None:
    context = new_context("train", training=axolotl())
    train(context)
    folder = tmp_path / "native"
    uri = context.uri("train", "native")
    manifest = fetch_directory(context.store, uri, folder, read_manifest(context.store, uri).digest)
    assert {file.path for file in manifest.files} == {"config.yaml", "train.parquet", "validation.parquet"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["adapter"], config["lora_r"], config["sample_packing"]) == ("lora", 4, True)

    shutil.copytree(model, folder / "base")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", "--num_machines=1"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "2"}
    ended = subprocess.run(
        [*launch, "--mixed_precision=no", "--dynamo_backend=no", "-m", "axolotl.cli.train", "config.yaml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    before = mean_loss(base, token_rows(12, 2))
    tuned = PeftModel.from_pretrained(base, folder / "out").eval()
    assert mean_loss(tuned, token_rows(12, 2)) < before - 0.1


def test_packed_rows_do_not_see_each_other(new_context: ContextFactory, model: Path) -> None:
    """All rows are one sequence: its loss before the first step is that of the rows one by one."""
    rows = {"effectiveBatchSize": 40, "microBatchSize": 40, "maxLength": 2048, "maxSteps": 1}
    same = {"learningRate": 1e-12, "lora": {"rank": 4, "dropout": 0.0}}
    result = train(new_context("train", training=axolotl(**rows, **same)))
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    assert result.training.loss == pytest.approx(mean_loss(base, token_rows(40, 1)), rel=2e-6)


def test_qlora_with_an_override(new_context: ContextFactory) -> None:
    overrides = {"weight_decay": 0.01, "optimizer": "adamw_torch_fused"}
    context = new_context("train", training=axolotl(method="qlora", packing=False, overrides=overrides))
    result = train(context)
    assert result.training.curve[-1].validation_loss < result.training.curve[0].validation_loss - 0.1
    config = yaml.safe_load(context.store.read(context.uri("train", "native", "config.yaml")))
    assert (config["load_in_4bit"], config["sample_packing"]) == (True, False)
    assert config | overrides == config


def test_the_known_settings_are_those_of_axolotl() -> None:
    listed = (files("tuneyard_trainer.backends.axolotl") / SETTINGS).read_text().split()
    assert listed == sorted(AxolotlInputConfig.model_fields)
