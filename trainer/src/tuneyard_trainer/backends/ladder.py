"""What a run does when its memory does not suffice: a ladder of settings that need less and give the same result.

Each rung keeps what the rungs below it have changed. The rows of a step, and so the effective batch, stay the same on
all of them. Pure functions of the spec; rungs.py remembers where a run is.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from tuneyard_api.contracts.requests import (
    CHUNKED_LOSS,
    OFFLOADED_OPTIMIZER,
    PAGED_OPTIMIZER,
    STREAMED_WEIGHTS,
    TrainRequest,
)
from tuneyard_api.kinds.training import FULL, Training
from tuneyard_trainer.backends.schedule import micro_batch_size

SAVERS: Final = {
    CHUNKED_LOSS: "a loss in chunks, whose logits are not kept",
    PAGED_OPTIMIZER: "a paged optimizer with moments in 8 bits (arXiv:2110.02861, arXiv:2305.14314)",
    OFFLOADED_OPTIMIZER: "the optimizer's moments and update on the CPU",
    STREAMED_WEIGHTS: "the base model's weights on the disk, which are read as they are used",
}
"""What a backend's worker may be able to do beside the settings of the spec, in the order of the ladder."""
GPU_ONLY: Final = (PAGED_OPTIMIZER, OFFLOADED_OPTIMIZER)


class Rung(NamedTuple):
    """Settings that need less memory than those of the rung below."""

    change: str
    """What is done on this rung and not below it."""
    training: Training
    memory_savers: tuple[str, ...] = ()

    def applied_to(self, request: TrainRequest) -> TrainRequest:
        return request.model_copy(update={"training": self.training, "memory_savers": self.memory_savers})


def ladder(training: Training, devices: int, on_gpu: bool, savers: Collection[str]) -> list[Rung]:
    """All rungs, that of the spec first.

    Args:
        devices: processes that share a step.
        savers: names of SAVERS that the backend has.
    """
    used: tuple[str, ...] = ()
    if training.stream_weights:
        training, used = training.model_copy(update={"gradient_checkpointing": True}), (STREAMED_WEIGHTS,)
    per_device, micro = training.effective_batch_size // devices, micro_batch_size(training, devices)
    training = training.model_copy(update={"micro_batch_size": micro})
    rungs = [Rung("the settings of the spec", training, used)]
    while micro > 1:
        micro = max(size for size in range(1, micro // 2 + 1) if per_device % size == 0)
        training = training.model_copy(update={"micro_batch_size": micro})
        accumulated = per_device // micro
        rungs.append(Rung(f"microBatchSize {micro}, {accumulated} of them accumulated in a step", training, used))
    if not training.gradient_checkpointing:
        training = training.model_copy(update={"gradient_checkpointing": True})
        rungs.append(Rung("gradientCheckpointing", training))
    for name in _usable(savers, training, devices, on_gpu):
        if name not in used:
            # The two optimizers exclude each other.
            used = (*(other for other in used if name not in GPU_ONLY or other not in GPU_ONLY), name)
            rungs.append(Rung(SAVERS[name], training, used))
    return rungs


def _usable(savers: Collection[str], training: Training, devices: int, on_gpu: bool) -> list[str]:
    """Of the backend's names those that this run can use, in the order of the ladder."""
    streams = devices == 1 and training.method != FULL and training.lora.variant != "dora"
    without = (() if on_gpu else GPU_ONLY) + (() if streams else (STREAMED_WEIGHTS,))
    return [name for name in SAVERS if name in savers and name not in without]
