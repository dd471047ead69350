"""No field of spec.training is ignored in silence: of each backend it is read, refused, or of no concern to it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import BaseModel, ValidationError

import tuneyard_trainer
from tuneyard_api.contracts.requests import TrainRequest
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.training import Training
from tuneyard_api.registry import BACKENDS
from tuneyard_trainer.backends import backend_of, check_training
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.runtime.errors import BadInput

Json = dict[str, Any]
SOURCE: Final = Path(tuneyard_trainer.__file__).parent
ROWS: Final = 64

ASKED: Final[dict[str, Any]] = {
    "method": "qlora",
    "lora.rank": 8,
    "lora.alpha": 64,
    "lora.dropout": 0.1,
    "lora.target_modules": ["q_proj"],
    "lora.variant": "rslora",
    "dpo.beta": 0.2,
    "epochs": 2.0,
    "max_steps": 7,
    "learning_rate": 3e-3,
    "scheduler": "linear",
    "warmup_ratio": 0.5,
    "effective_batch_size": 32,
    "micro_batch_size": 2,
    "max_length": 64,
    "precision": "fp32",
    "gradient_checkpointing": True,
    "stream_weights": True,
    "attention": "eager",
    "use_liger_kernel": True,
    "packing": True,
    "eval_steps": 3,
    "keep": "last",
    "early_stopping.patience": 2,
    "oom_recovery": False,
    "seed": 7,
    "checkpoints.every_minutes": 1.0,
    "checkpoints.keep": 3,
    "tracking.mlflow.secret_ref.name": "mlflow",
    "tracking.mlflow.experiment": "another",
    "overrides": {"weight_decay": 0.1},
}
"""For each field a value that is not its default. A new field needs a line here, and every backend an answer to it."""

STAGE: Final = {
    "epochs": "backends/schedule.py",
    "max_steps": "backends/schedule.py",
    "eval_steps": "stages/train.py",
    "keep": "backends/run.py",
    "early_stopping.patience": "backends/run.py",
    "oom_recovery": "backends/rungs.py",
    "checkpoints.every_minutes": "backends/peft/callback.py",
    "checkpoints.keep": "runtime/checkpoints.py",
    "tracking.mlflow.secret_ref.name": "tracking/mlflow.py",
    "tracking.mlflow.experiment": "tracking/mlflow.py",
}
"""Fields that are the same for all backends, with the file that reads them."""

WORKERS: Final = {
    ("peft", "lora.target_modules"): "backends/peft/model.py",
    ("peft", "method"): "backends/peft/model.py",
    ("peft", "dpo.beta"): "backends/peft/worker.py",
    ("peft", "max_length"): "stages/prepare.py",
    ("peft", "stream_weights"): "backends/ladder.py",
    ("peft", "attention"): "backends/peft/model.py",
    ("peft", "use_liger_kernel"): "backends/peft/liger.py",
    ("peft", "packing"): "backends/peft/worker.py",
}
"""Fields that a backend's worker reads rather than its native_config, with the file that does."""

NAMES: Final = {"use_liger_kernel": "tries_liger", "packing": "packs"}
"""Of the properties by which a field is read."""


def fields(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        parts = [
            part for part in (info.annotation, *getattr(info.annotation, "__args__", ())) if isinstance(part, type)
        ]
        inner = next((part for part in parts if issubclass(part, BaseModel)), None)
        if inner is None:
            yield above + name
        else:
            yield from fields(inner, f"{above}{name}.")


FIELDS: Final = sorted(set(fields(Training)) - {"backend"})


def test_every_field_has_an_example() -> None:
    assert sorted(ASKED) == FIELDS
    for name, value in ASKED.items():
        default: Any = Training()
        for part in name.split("."):
            default = getattr(default, part, None)
        assert value != default, name


def nested(name: str, value: Any) -> Json:
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


def is_refused(training: Json) -> bool:
    job = {
        "model": {"uri": "s3://models/a"},
        "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
        "output": {"uri": "s3://artifacts/a"},
        "training": training,
    }
    try:
        check_training(FineTuneJobSpec.model_validate(job))
    except (BadInput, ValidationError):
        return True
    return False


def native(training: Json, folder: Path, rows: Path) -> Json:
    """What the backend's library is given: its settings, and its files."""
    folder.mkdir()
    asked = TrainRequest(
        model=Path("base"),
        model_uri="s3://models/a",
        rows=rows,
        training=Training.model_validate(training),
        steps=100,
        gpus=1,
        devices=1,
        checkpoints=Path("checkpoints"),
        output=Path("adapter"),
        native=folder,
        events=Path("events"),
        stop_file=Path("stop"),
    )
    made = backend_of(asked.training.backend).native_config(asked)
    own = type(made).model_fields.keys() - TrainRequest.model_fields.keys()
    settings = {name: getattr(made, name) for name in own if name != "config"}
    return settings | {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    writer = ShardWriter(folder)
    for index in range(ROWS):
        writer.add({"input_ids": [5 + index] * 20, "labels": [6] * 20})
    writer.finish()
    return folder


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_field_is_ignored(backend: str, name: str, tmp_path: Path, rows: Path) -> None:
    training = {"backend": backend, **nested(name, ASKED[name])}
    if is_refused(training):
        return
    reader = STAGE.get(name, WORKERS.get((backend, name)))
    if reader is None:
        before = {"backend": backend, "packing": False} if name == "packing" else {"backend": backend}
        assert native(training, tmp_path / "asked", rows) != native(before, tmp_path / "default", rows)
    else:
        last = name.rsplit(".", maxsplit=1)[-1]
        assert re.search(rf"\.{NAMES.get(last, last)}\b", (SOURCE / reader).read_text())
