"""The axolotl backend without torch: what it checks, and the files from which Axolotl trains."""

from pathlib import Path
from typing import Final

import yaml
from pydantic import Field

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TrainOutcome, TrainRequest
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.backends.axolotl.config import TRAIN_FILE, VALIDATION_FILE, axolotl_config
from tuneyard_trainer.backends.axolotl.overrides import check_overrides
from tuneyard_trainer.backends.axolotl.rows import write_parquet
from tuneyard_trainer.backends.base import Backend
from tuneyard_trainer.backends.schedule import epoch_order, micro_batch_size
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.worker import Program

CONFIG_FILE: Final = "config.yaml"


class AxolotlRequest(TrainRequest):
    """Train a LoRA or QLoRA adapter with Axolotl."""

    config: Path = Field(description="Axolotl's config.yaml; its paths are relative to its folder.")


def check(spec: FineTuneJobSpec) -> None:
    """Raises BadInput when the batch cannot be divided among the devices, or an override is not possible."""
    devices = spec.resources.devices
    micro_batch_size(spec.training, devices)
    if devices > 1 and not spec.resources.gpus:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.backend axolotl trains on one CPU, and resources.nodes is {devices}",
            "Set resources.nodes: 1, ask for GPUs, or choose another training.backend.",
        )
    check_overrides(spec.training.overrides or {})


def native_config(request: TrainRequest) -> AxolotlRequest:
    """Writes config.yaml and the rows into request.native."""
    rows = read_rows(request.rows)
    order = epoch_order(len(rows), request.training.seed)
    write_parquet(request.native / TRAIN_FILE, rows, order)
    if request.validation_rows is not None:
        held_out = read_rows(request.validation_rows)
        write_parquet(request.native / VALIDATION_FILE, held_out, range(min(len(held_out), request.validation_count)))
    config = axolotl_config(request, [rows.lengths[index] for index in order])
    path = request.native / CONFIG_FILE
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return AxolotlRequest(**dict(request), config=path)


BACKEND: Final = Backend(
    worker=Program("tuneyard_trainer.backends.axolotl.worker", TrainOutcome, compiles=True),
    check=check,
    native_config=native_config,
)
