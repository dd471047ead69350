"""The pure parts of export, and which files belong to a model."""

import json
from pathlib import Path

from support.memorystore import MemoryStore
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.exporters.llmcompressor import calibration_rows
from tuneyard_trainer.model.layout import INDEX, SINGLE, config_files, fresh, weight_files
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages.export import Share

ROWS = [[number] for number in range(50)]


def test_calibration_sample() -> None:
    chosen = calibration_rows(ROWS, 8, seed=1)
    assert len(chosen) == 8
    assert chosen == calibration_rows(ROWS, 8, seed=1)
    assert chosen != calibration_rows(ROWS, 8, seed=2)


def test_calibration_with_few_rows() -> None:
    assert sorted(calibration_rows(ROWS, 256, seed=1)) == ROWS


def test_progress_of_several_formats(tmp_path: Path) -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/a"},
            "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
            "output": {"uri": "s3://artifacts/a"},
        }
    )
    context = StageContext("export", "x", spec, MemoryStore(), tmp_path)
    second = Share(context, 1, 2)
    shown = []
    for done in (0, 0.5, 1):
        second(done, "quantizing")
        shown.append(context.progress.report().percent)
    assert shown == [50, 75, 100]


def test_config_files() -> None:
    wanted = ["chat_template.jinja", "config.json", "merges.txt", "tokenizer.json", "tokenizer.model"]
    others = [INDEX, SINGLE, "README.md", "modeling.py", "pytorch_model.bin", "model.gguf", "original/params.json"]
    assert config_files([*others, *wanted]) == wanted


def test_weight_files(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == [SINGLE]
    shards = {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "consolidated.safetensors").touch()
    assert weight_files(tmp_path) == ["model-1.safetensors", "model-2.safetensors"]


def test_fresh(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "old").touch()
    assert list(fresh(directory).iterdir()) == []
