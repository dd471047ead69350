"""What the operator asks of an engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class EngineOptions(NamedTuple):
    """Options that every engine understands; `extra` are the engine's own, without dashes."""

    model: Path
    served_name: str
    socket: Path
    max_model_len: int | None = None  # tokens
    tensor_parallel_size: int | None = None
    gpu_memory_utilization: float | None = None  # share of the GPU's memory
    threads: int | None = None  # that the container's CPU limit lets run at once
    extra: Mapping[str, str] = {}


class Command(NamedTuple):
    """How to start an engine."""

    argv: list[str]
    environment: dict[str, str]
