"""Memory of GPUs, by the names that clusters give them: node labels and extended resources."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.quantity import parse_quantity

GIB: Final = 2**30
GPU_MEMORY_LABEL: Final = "nvidia.com/gpu.memory"
"""MiB, from NVIDIA's GPU feature discovery."""


class Gpu(NamedTuple):
    """A kind of GPU."""

    name: str
    pattern: str
    """Of its name in a label, such as NVIDIA-A100-SXM4-80GB, nvidia-l4 or a10g."""
    gib: float
    """As nvidia-smi or amd-smi shows it in all, or as the data sheet does."""


# Those that are known by more words come before those that are known by fewer.
GPUS: Final = (
    Gpu("B200", "b200", 179.0),
    Gpu("H200", "h200", 140.4),
    Gpu("H100 NVL", "h100-nvl", 93.6),
    Gpu("H100", "h100", 79.6),
    Gpu("A100 80 GB", "a100.*80gb", 80.0),
    Gpu("A100 40 GB", "a100", 40.0),
    Gpu("L40S", "l40s?", 45.0),
    Gpu("L4", "l4", 22.5),
    Gpu("A10", "a10g?", 22.5),
    Gpu("A30", "a30", 24.0),
    Gpu("A40", "a40", 45.0),
    Gpu("RTX 6000 Ada", "(rtx-)?6000-ada.*|rtx-a6000", 48.0),
    Gpu("RTX 4090 or 3090", "[34]090", 24.0),
    Gpu("V100 32 GB", "v100.*32gb", 32.0),
    Gpu("V100 16 GB", "v100", 16.0),
    Gpu("T4", "t4", 15.0),
    Gpu("MI300X", "mi300x", 192.0),
    Gpu("MI210", "mi210", 64.0),
)
MIG: Final = re.compile(r"mig-\d+g\.(\d+)gb")


class Device(NamedTuple):
    """What trains, and its memory; None: not known."""

    name: str
    gib: float | None


def device_of(spec: FineTuneJobSpec) -> Device:
    """The GPU that the spec asks for; the pod, with its limit of memory, where it asks for none."""
    resources = spec.resources
    if not resources.gpus:
        limit = (resources.limits or {}).get("memory")
        return Device("the pod's limit of memory", None if limit is None else float(parse_quantity(limit)) / GIB)
    if spec.fit.gpu_memory_gib is not None:
        return Device("fit.gpuMemoryGiB", spec.fit.gpu_memory_gib)
    if found := MIG.search(resources.gpu_resource_name):
        return Device(resources.gpu_resource_name, float(found[1]))
    return _from_labels(resources.node_selector or {}) or Device(resources.gpu_resource_name, None)


def _from_labels(labels: Mapping[str, str]) -> Device | None:
    if labels.get(GPU_MEMORY_LABEL, "").isdigit():
        return Device(f"{GPU_MEMORY_LABEL}: {labels[GPU_MEMORY_LABEL]}", int(labels[GPU_MEMORY_LABEL]) / 1024)
    for label, value in labels.items():
        if "gpu" in label.lower() or "accelerator" in label.lower():
            if found := MIG.search(value.lower()):
                return Device(value, float(found[1]))
            if gpu := gpu_named(value):
                return Device(value, gpu.gib)
    return None


def gpu_named(value: str) -> Gpu | None:
    """The kind of GPU that a label's value names."""
    text = re.sub(r"[\s_]+", "-", value.lower())
    return next((gpu for gpu in GPUS if re.search(rf"(^|-){gpu.pattern}(-|$)", text)), None)


def smallest_with(gib: float) -> Gpu | None:
    """The kind with the least memory that has more than so much."""
    return min((gpu for gpu in GPUS if gpu.gib > gib), key=lambda gpu: gpu.gib, default=None)
