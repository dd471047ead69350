"""The pure parts of export, and which files belong to a model."""

import json
from pathlib import Path

from tuneyard_trainer.model.layout import INDEX, SINGLE, config_files, fresh, weight_files
from tuneyard_trainer.stages.export import Span, calibration_rows

ROWS = [[number] for number in range(50)]


def test_calibration_takes_a_sample_that_the_seed_decides() -> None:
    chosen = calibration_rows(ROWS, 8, seed=1)
    assert len(chosen) == 8
    assert chosen == calibration_rows(ROWS, 8, seed=1)
    assert chosen != calibration_rows(ROWS, 8, seed=2)


def test_calibration_takes_all_rows_when_there_are_few() -> None:
    assert sorted(calibration_rows(ROWS, 256, seed=1)) == ROWS


def test_a_format_has_its_part_of_the_percent() -> None:
    half = Span(begin=50, share=50)
    assert [half.percent(done) for done in (0, 0.5, 1)] == [50, 75, 100]


def test_configuration_and_tokenizer_belong_to_a_model_code_and_old_weights_do_not() -> None:
    wanted = ["chat_template.jinja", "config.json", "merges.txt", "tokenizer.json", "tokenizer.model"]
    others = [INDEX, SINGLE, "README.md", "modeling.py", "pytorch_model.bin", "model.gguf", "original/params.json"]
    assert config_files([*others, *wanted]) == wanted


def test_the_index_names_the_shards(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == [SINGLE]
    shards = {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "consolidated.safetensors").touch()
    assert weight_files(tmp_path) == ["model-1.safetensors", "model-2.safetensors"]


def test_fresh_removes_what_was_there(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "old").touch()
    assert list(fresh(directory).iterdir()) == []
