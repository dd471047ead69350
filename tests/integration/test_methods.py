"""Every training method gives the losses that are checked in, step by step; and what it writes is what it trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from integration.runs import Run
from tuneyard_trainer.backends.peft import precision

STEPS = 20
GOLDEN = Path(__file__).parent / "golden_losses.json"
"""By method, [training loss, validation loss] before the first step and after each; see test_golden_losses."""

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"lora": {"rank": 4, "alpha": 8, "variant": "rslora"}},
    "dora": {"lora": {"rank": 4, "alpha": 8, "variant": "dora"}},
    "qlora": {"method": "qlora"},
    "full": {"method": "full", "learningRate": 1e-3, "lora": {}},
}


def run_method(name: str, folder: Path, model: Path, rows: Path, precision: str = "fp32") -> Run:
    run = Run(folder, model, rows, STEPS, precision=precision, keep="last", **METHODS[name])
    run.train_here()
    return run


@pytest.mark.parametrize("name", METHODS)
def test_golden_losses(name: str, tmp_path: Path, model: Path, rows: Path) -> None:
    """To write them anew after a change that is meant: the assertion's message has the losses that were found."""
    run = run_method(name, tmp_path / "run", model, rows)
    found = [[point.loss, point.validation_loss] for point in run.outcome.curve]
    assert len(found) == STEPS + 1
    golden = json.loads(GOLDEN.read_text())[name]
    assert found[0][0] is golden[0][0] is None
    assert found[0][1] == pytest.approx(golden[0][1], rel=1e-5)
    for step in range(1, STEPS + 1):
        assert found[step] == pytest.approx(golden[step], rel=1e-5), f"step {step} of {json.dumps(found)}"
    first, last = run.outcome.curve[0], run.outcome.curve[-1]
    assert last.validation_loss < first.validation_loss - 0.2, "it has learned something"


def test_a_cpu_without_bfloat16_computes_in_float32(
    tmp_path: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda: False)
    run = run_method("lora", tmp_path / "run", model, rows, "bf16")
    found = [point.loss for point in run.outcome.curve[1:]]
    golden = json.loads(GOLDEN.read_text())["lora"]
    assert found == pytest.approx([loss for loss, _ in golden[1:]], rel=1e-5)
    assert "This CPU has no instructions for bfloat16" in capsys.readouterr().out


def test_a_full_tuning_trains_every_parameter_and_writes_a_model(tmp_path: Path, model: Path, rows: Path) -> None:
    run = run_method("full", tmp_path / "run", model, rows)
    output = run.folder / "output"
    assert not list(output.glob("adapter*"))
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    written = {name: value for path in output.glob("*.safetensors") for name, value in load_file(path).items()}
    before = {name: value for path in model.glob("*.safetensors") for name, value in load_file(path).items()}
    assert written.keys() == before.keys()
    assert {value.dtype for value in written.values()} == {torch.bfloat16}
    unchanged = [name for name, value in written.items() if torch.equal(value, before[name])]
    assert unchanged == []
    tuned = AutoModelForCausalLM.from_pretrained(output)
    assert torch.equal(tuned.state_dict()["model.norm.weight"], written["model.norm.weight"])
