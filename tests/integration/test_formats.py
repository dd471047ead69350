"""Every format of every architecture computes what the model does, or prepare refuses it."""

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from integration.architectures import ARCHITECTURES, VOCABULARY, write_tiny
from tuneyard_api import reasons
from tuneyard_trainer.exporters import format_of
from tuneyard_trainer.exporters.fidelity import ROUNDING
from tuneyard_trainer.exporters.formats.gptq import READ_UNPACKED
from tuneyard_trainer.exporters.smoothing import PAIRS
from tuneyard_trainer.model.layout import weight_files
from tuneyard_trainer.model.shape import local_shape
from tuneyard_trainer.runtime.worker import environment

FORMATS: Final = ("fp16", "int8", "fp8", "gptq", "awq")
NOT_QUANTIZED: Final = {
    "gpt2": "Conv1D",
    **dict.fromkeys(("qwen3_moe", "mixtral", "olmoe", "granitemoe"), "the experts of a mixture"),
}
Case = dict[str, Any]


def refusal(model_type: str, name: str) -> str | None:
    """Words of the message by which prepare is expected to refuse a format."""
    if name == "fp16":
        return None
    if name == "awq" and model_type not in PAIRS:
        return "not known to be right"
    if name == "gptq" and model_type in READ_UNPACKED:
        return "cannot be read by transformers"
    return NOT_QUANTIZED.get(model_type)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {model_type: write_tiny(model_type, folder / model_type) for model_type in ARCHITECTURES}


@pytest.fixture(scope="module")
def quantize(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Case]], list[Case]]:
    """Runs cases in the quantizer's environment; each gets what became of it."""
    folder = tmp_path_factory.mktemp("quantized")
    chance = random.Random(1)  # noqa: S311
    rows = [[chance.randrange(3, VOCABULARY) for _ in range(64)] for _ in range(16)]
    (folder / "rows.json").write_text(json.dumps(rows))

    def run(cases: list[Case]) -> list[Case]:
        given = [
            {"rows": str(folder / "rows.json"), "output": str(folder / str(number)), "pairs": None} | case
            for number, case in enumerate(cases)
        ]
        (folder / "cases.json").write_text(json.dumps(given))
        command = [os.environ["TUNEYARD_QUANTIZER_PYTHON"], "-m", "integration.quantizing", str(folder / "cases.json")]
        done = subprocess.run(
            command, env=environment(os.environ, 1, use_gpus=False), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.split("\n") if line.startswith('{"rows"')]

    return run


@pytest.fixture(scope="module")
def table(models: dict[str, Path], quantize: Callable[[list[Case]], list[Case]]) -> dict[tuple[str, str], Case]:
    wanted = [(model_type, name) for model_type in models for name in FORMATS if not refusal(model_type, name)]
    found = quantize([{"model": str(models[model_type]), "format": name} for model_type, name in wanted])
    return dict(zip(wanted, found, strict=True))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_made_or_refused(
    model_type: str, name: str, models: dict[str, Path], table: dict[tuple[str, str], Case]
) -> None:
    directory = models[model_type]
    reason = format_of(name).misfit(local_shape(directory, weight_files(directory)))
    if expected := refusal(model_type, name):
        assert reason is not None
        assert expected in reason
        return
    assert reason is None
    found = table[model_type, name]
    assert found["reason"] == "made", found["message"]
    assert found["error"] <= 2 * found["nearest"] + ROUNDING
    assert found["told"]["logitsError"] == pytest.approx(found["error"], rel=0.05, abs=1e-3)
    assert {"config.json", "model.safetensors"} <= set(found["files"])
    assert "recipe.yaml" not in found["files"]


def test_wrong_smoothing_is_found(models: dict[str, Path], quantize: Callable[[list[Case]], list[Case]]) -> None:
    """Gemma 2 smoothed as a Llama: the norm after attention does not feed the MLP."""
    case = {"model": str(models["gemma2"]), "format": "int8", "pairs": ["gemma2", "llama"]}
    (found,) = quantize([case])
    assert found["reason"] == reasons.QUANTIZATION_DIVERGED
    assert "int8 does not compute what the merged model does" in found["message"]
