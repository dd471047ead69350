"""The GPU memory that a training needs, estimated from the model's configuration and the headers of its weights.

Each part is an upper bound: every row is taken to have maxLength tokens, all of them trained. The formulas:

weights      2 or 4 bytes a parameter by training.precision. QLoRA holds the matrices of linear layers in NF4 with
             double quantization, 4.127 bits a parameter (arXiv:2305.14314, section 3), and casts all others to 4 bytes
             (peft.prepare_model_for_kbit_training); one matrix at a time is decoded for its product. Of streamed
             weights one decoder layer, and with QLoRA the scales of all.
adapter      rank x (inputs + outputs) parameters for each adapted matrix (arXiv:2106.09685, section 4.1), in 4 bytes:
             PEFT keeps adapters in float32.
gradients    4 bytes for each parameter of the adapter; twice that where several GPUs exchange them in buckets.
optimizer    the two moments of AdamW: 8 bytes for each parameter of the adapter.
activations  what autograd keeps of a decoder layer with frozen weights and adapted matrices, for each token: see
             `_kept_per_token`. With gradient checkpointing the input of each layer, and one layer in full
             (arXiv:1604.06174). Fewer targetModules need less.
logits       the head's output and its gradient; with other backends than peft also its log-probabilities in float32 and
             their gradient.
reserve      the CUDA context, about 0.7 GiB, and a twentieth of the rest for what PyTorch's allocator cannot use.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import FitStatus
from tuneyard_api.kinds.training import PEFT, Training
from tuneyard_api.registry import BACKENDS
from tuneyard_trainer.model.adaptable import ALL_LINEAR, shares_inputs, why_not
from tuneyard_trainer.model.architectures import structure_of
from tuneyard_trainer.model.gpus import GIB, Device, device_of, smallest_with
from tuneyard_trainer.model.shape import ModelShape, kind

NF4_BYTES: Final = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Of a parameter: 4 bits, a scale of 8 bits for each 64 of them, and one of 32 bits for each 256 scales."""
PACKED_BYTES: Final = 4 / 8
DECODER_LAYER: Final = re.compile(r".*?\.\d+\.")
FLOAT32: Final = 4
MOMENTS: Final = 8
LOG_PROBABILITIES: Final = 4 + 4  # and their gradient
CONTEXT_GIB: Final = 0.7
FRAGMENTATION: Final = 0.05
TIGHT: Final = 0.9
"""Above this share of the available memory the verdict is Tight."""
TOLD: Final = 3
SHORTEST: Final = 256  # tokens: no shorter maxLength is advised


class Sizes(NamedTuple):
    """The sizes of a decoder."""

    layers: int
    hidden: int
    inner: int
    """Of the feed-forward part; of a mixture, of all experts that work on one token."""
    queries: int
    keys: int
    vocabulary: int
    heads: int


def estimate_fit(spec: FineTuneJobSpec, shape: ModelShape, micro: int) -> FitStatus | None:
    """The estimate and its verdict; None where the sizes of the model are not known.

    Args:
        micro: rows of a micro batch.
    """
    sizes = sizes_of(shape)
    if sizes is None:
        return None
    device = device_of(spec)
    parts = parts_in_gib(spec, shape, sizes, micro)
    required = sum(parts.values())
    verdict = _verdict(required, device)
    return FitStatus(
        verdict=verdict,
        required_gib=round(required, 1),
        available_gib=None if device.gib is None else round(device.gib, 1),
        device=device.name,
        micro_batch_size=micro,
        parts={name: round(gib, 2) for name, gib in parts.items()},
        advice=None if verdict == "Fits" else _advice(spec, shape, sizes, micro, device),
    )


def largest_fitting(spec: FineTuneJobSpec, shape: ModelShape) -> int | None:
    """The most rows of a micro batch, of those that divide a device's share of a step, that fit with a margin.

    At least 1, whether that fits or not; None where the sizes of the model, or the memory, are not known.
    """
    sizes, device = sizes_of(shape), device_of(spec)
    if sizes is None or device.gib is None:
        return None
    per_device = spec.training.effective_batch_size // spec.resources.devices
    divisors = [rows for rows in range(per_device, 1, -1) if per_device % rows == 0]
    room = TIGHT * device.gib
    return next((rows for rows in divisors if sum(parts_in_gib(spec, shape, sizes, rows).values()) <= room), 1)


def sizes_of(shape: ModelShape) -> Sizes | None:
    """The sizes by transformers' table of the model's type, else by the names that most configurations use."""
    config = shape.config
    structure = structure_of(shape.model_type)
    known = structure.sizes(config) if structure else {}
    heads = _number(config, "num_attention_heads", "n_head") or 0
    hidden = known.get("hidden") or _number(config, "hidden_size", "n_embd")
    layers = _number(config, "num_hidden_layers", "n_layer")
    if not hidden or not layers:
        return None
    experts = _number(config, "num_experts_per_tok")
    inner = known.get("inner") or _number(config, "intermediate_size", "n_inner") or 4 * hidden
    if experts:
        inner = experts * (_number(config, "moe_intermediate_size") or inner)
    return Sizes(
        layers=layers,
        hidden=hidden,
        inner=inner,
        queries=known.get("queries", hidden),
        keys=known.get("keys", hidden),
        vocabulary=known.get("vocab") or _number(config, "vocab_size") or 0,
        heads=heads,
    )


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def parts_in_gib(spec: FineTuneJobSpec, shape: ModelShape, sizes: Sizes, micro: int) -> dict[str, float]:
    """GiB of each part, for one GPU."""
    training = spec.training
    width = 2 if training.precision == "bf16" else FLOAT32
    adapter = adapter_parameters(training, shape)
    tokens = micro * training.max_length
    bytes_of = {
        "weights": weight_bytes(training, shape, width),
        "adapter": adapter * FLOAT32,
        "gradients": adapter * FLOAT32 * (2 if spec.resources.devices > 1 else 1),
        "optimizer": adapter * MOMENTS,
        "activations": activation_bytes(training, sizes, tokens, width),
        "logits": tokens * sizes.vocabulary * (2 * width + (0 if training.backend == PEFT else LOG_PROBABILITIES)),
    }
    parts = {name: amount / GIB for name, amount in bytes_of.items()}
    context = CONTEXT_GIB if spec.resources.gpus else 0
    return parts | {"reserve": context + FRAGMENTATION * sum(parts.values())}


def weight_bytes(training: Training, shape: ModelShape, width: int) -> float:
    """Of the base model, with the largest matrix decoded where it is held in NF4."""
    if training.stream_weights:
        return _streamed_bytes(training, shape, width)
    counts = {name: math.prod(dimensions) for name, dimensions in shape.tensors.items()}
    if training.method != "qlora":
        return width * sum(counts.values())
    quantized = {name: count for name, count in counts.items() if _is_linear(name, shape)}
    others = sum(counts.values()) - sum(quantized.values())
    return NF4_BYTES * sum(quantized.values()) + FLOAT32 * others + width * max(quantized.values(), default=0)


def _streamed_bytes(training: Training, shape: ModelShape, width: int) -> float:
    """What is in memory of a base model whose decoder layers read their weights from the disk."""
    is_quantized = training.method == "qlora"
    packed: Counter[str] = Counter()  # by decoder layer
    resident, largest = 0.0, 0
    for name, dimensions in shape.tensors.items():
        count, layer = math.prod(dimensions), DECODER_LAYER.match(name)
        if layer and is_quantized and _is_linear(name, shape):
            packed[layer[0]] += count
            resident += (NF4_BYTES - PACKED_BYTES) * count
            largest = max(largest, count)
        elif layer and not is_quantized:
            packed[layer[0]] += count
        else:
            resident += (FLOAT32 if is_quantized else width) * count
    each = PACKED_BYTES if is_quantized else width
    return resident + each * max(packed.values(), default=0) + width * largest


def _is_linear(name: str, shape: ModelShape) -> bool:
    module, _, parameter = name.rpartition(".")
    return parameter == "weight" and len(shape.tensors[name]) == 2 and kind(module) in ("linear", "router")  # a matrix


def adapter_parameters(training: Training, shape: ModelShape) -> int:
    """Of all adapted matrices."""
    return training.lora.rank * sum(_adapted(training, shape))


def _adapted(training: Training, shape: ModelShape) -> Iterator[int]:
    """Inputs and outputs of each adapted matrix."""
    names = training.lora.target_modules
    for layer in shape.linear_layers:
        named = any(f".{layer.module}".endswith(f".{name}") for name in names)
        if named or (names == [ALL_LINEAR] and why_not(layer.module, shape) is None):
            yield layer.columns + layer.rows


def activation_bytes(training: Training, sizes: Sizes, tokens: int, width: int) -> float:
    """Of a micro batch of so many tokens."""
    layer = tokens * _kept_per_token(training, sizes, width)
    last_norm = tokens * sizes.hidden * FLOAT32
    if training.gradient_checkpointing or training.stream_weights:
        return sizes.layers * tokens * sizes.hidden * width + layer + last_norm
    return sizes.layers * layer + last_norm


def _kept_per_token(training: Training, sizes: Sizes, width: int) -> float:
    """Bytes that autograd keeps of one layer for each token, as counted on the CPU (tests/unit/test_fit.py).

    Of the feed-forward part the gate, its activation, the other half and their product; queries and keys after the
    rotation, values, the attention's output; the inputs of the adapted matrices, and the norms' input in float32; and
    what seven adapters have between their two matrices. Attention that is not fused keeps its scores too.
    """
    copies = 2 if width == FLOAT32 or shares_inputs(training) else 6
    kept = 4 * sizes.inner + 2 * sizes.keys + 2 * sizes.queries + copies * sizes.hidden + 7 * training.lora.rank
    scores = 2 * sizes.heads * training.max_length if training.attention == "eager" else 0
    return width * (kept + scores) + 2 * FLOAT32 * sizes.hidden


def _verdict(required: float, device: Device) -> Literal["Fits", "Tight", "DoesNotFit", "Unknown"]:
    if device.gib is None:
        return "Unknown"
    if required > device.gib:
        return "DoesNotFit"
    return "Tight" if required > TIGHT * device.gib else "Fits"


def _advice(spec: FineTuneJobSpec, shape: ModelShape, sizes: Sizes, micro: int, device: Device) -> str:
    """What would fit with a margin, the least change first, and the GPU that would do as it is."""
    required = sum(parts_in_gib(spec, shape, sizes, micro).values())
    would_do = _would_do(spec, required / TIGHT)
    if device.gib is None:
        field = "fit.gpuMemoryGiB" if spec.resources.gpus else "resources.limits.memory"
        return f"Set {field} for a verdict. {would_do}"
    fitting = [
        f"{text} ({needed:.1f} GiB)"
        for text, changed, rows in _changes(spec, micro)
        if (needed := sum(parts_in_gib(changed, shape, sizes, rows).values())) <= TIGHT * device.gib
    ]
    changes = f"Set {', or '.join(fitting[:TOLD])}. " if fitting else ""
    return f"{changes}{would_do}"


def _would_do(spec: FineTuneJobSpec, gib: float) -> str:
    """What has so much memory."""
    if not spec.resources.gpus:
        return f"A limit of {math.ceil(gib)}Gi would do."
    gpu = smallest_with(gib)
    return f"As it is, a GPU of {gpu.gib:g} GiB ({gpu.name}) would do." if gpu else "No known GPU would do as it is."


def _changes(spec: FineTuneJobSpec, micro: int) -> Iterator[tuple[str, FineTuneJobSpec, int]]:
    """Changes of spec.training, each alone and then together, with the rows of a micro batch."""

    def changed(**fields: object) -> FineTuneJobSpec:
        return spec.model_copy(update={"training": spec.training.model_copy(update=fields)})

    smaller = [2**power for power in reversed(range(micro.bit_length())) if 2**power < micro]
    for rows in smaller:
        yield f"training.microBatchSize: {rows}", spec, rows
    checkpointing = {} if spec.training.gradient_checkpointing else {"gradient_checkpointing": True}
    if checkpointing:
        yield "training.gradientCheckpointing: true", changed(**checkpointing), micro
    if spec.training.method == "lora":
        yield "training.method: qlora", changed(method="qlora"), micro
        if smaller or checkpointing:
            words = ["method: qlora", *(["gradientCheckpointing: true"] if checkpointing else []), "microBatchSize: 1"]
            yield f"training {{{', '.join(words)}}}", changed(method="qlora", **checkpointing), 1
    length = spec.training.max_length
    while (length := length // 2) >= SHORTEST:
        yield f"training.maxLength: {length}", changed(max_length=length), micro
    if _can_stream(spec):
        streamed = changed(method="qlora", stream_weights=True)
        yield "training {method: qlora, streamWeights: true, microBatchSize: 1}", streamed, 1


def _can_stream(spec: FineTuneJobSpec) -> bool:
    """Whether the weights could be on the disk, and are not yet."""
    training = spec.training
    has_streaming = "streamWeights" in BACKENDS[training.backend].has and training.lora.variant != "dora"
    return has_streaming and spec.resources.devices == 1 and not training.stream_weights
