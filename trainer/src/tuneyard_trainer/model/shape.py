"""What a model is made of, read from config.json and the headers of its safetensors files alone.

The names in the files are those that people know from the hub. They tell which modules are linear layers, whatever
config.json calls the widths.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

HEADER_LENGTH: Final = 8  # bytes: the length of the header, little-endian, at the beginning of a safetensors file
MAX_HEADER_BYTES: Final = 100_000_000  # the limit of safetensors itself

# A component of a module's name that marks a table which is indexed, not multiplied.
EMBEDDING: Final = re.compile(r"^(wte|wpe|.*embed(?!_out).*)$")
HEADS: Final = frozenset({"lm_head", "embed_out"})
"""Output layers: often tied to the embedding, never adapted and never quantized."""
ROUTERS: Final = frozenset({"gate", "router", "shared_expert_gate"})
"""Linear maps that choose experts: too small to gain anything, and too sensitive to be quantized."""
EXPERTS: Final = re.compile(r"experts|moe")
CONV1D_MODELS: Final = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Model types whose linear layers are transformers' Conv1D, whose weight is [in, out]."""


class TensorInfo(NamedTuple):
    """One entry of a safetensors header."""

    dtype: str
    """As safetensors writes it: BF16, F32, ..."""
    shape: tuple[int, ...]
    begin: int
    """Of its bytes, counted from the end of the header."""
    end: int


class Header(NamedTuple):
    """The header of a safetensors file."""

    tensors: dict[str, TensorInfo]
    """In the order of their bytes."""
    data_start: int
    """Where the bytes of the tensors begin in the file."""


def read_header(stream: IO[bytes]) -> Header:
    """Reads the header from the beginning of a safetensors file, and nothing behind it.

    Raises:
        ValueError: this is no safetensors file.
    """
    length = int.from_bytes(_read_all(stream, HEADER_LENGTH), "little")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    try:
        document = json.loads(_read_all(stream, length))
        entries = {
            name: TensorInfo(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in document.items()
            if name != "__metadata__"
        }
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"the header is wrong: {error!r}") from error
    ordered = dict(sorted(entries.items(), key=lambda item: item[1].begin))
    return Header(ordered, HEADER_LENGTH + length)


def _read_all(stream: IO[bytes], length: int) -> bytes:
    """A stream over the network returns less than was asked for."""
    parts = []
    while length:
        part = stream.read(length)
        if not part:
            raise ValueError("the file ends within its header")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class LinearLayer(NamedTuple):
    """A layer that multiplies by a matrix."""

    module: str
    """Its name in the files, for example model.layers.0.self_attn.q_proj."""
    columns: int
    """Input features."""
    rows: int
    """Output features."""


@dataclass(frozen=True)
class ModelShape:
    """The configuration of a model, and the shapes of its tensors by their names in the files."""

    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tokenizer: Path | None = None
    """Its tokenizer.json, which may be missing."""

    @property
    def model_type(self) -> str:
        """As config.json says it; empty where it does not."""
        return str(self.config.get("model_type") or "")

    @property
    def architecture(self) -> str | None:
        """The class in transformers; None where the configuration names none."""
        return next(iter(self.config.get("architectures") or ()), None)

    @property
    def is_conv1d(self) -> bool:
        """Whether its linear layers are transformers' Conv1D."""
        return self.model_type in CONV1D_MODELS

    @cached_property
    def linear_layers(self) -> tuple[LinearLayer, ...]:
        """The linear layers without embeddings, heads and routers; the experts of a mixture one by one."""
        return tuple(self._linear_layers())

    def _linear_layers(self) -> Iterator[LinearLayer]:
        for name, shape in self.tensors.items():
            module, _, parameter = name.rpartition(".")
            if parameter == "weight" and len(shape) == 2 and kind(module) == "linear":  # a matrix
                rows, columns = reversed(shape) if self.is_conv1d else shape
                yield LinearLayer(module, columns, rows)

    @cached_property
    def experts(self) -> tuple[str, ...]:
        """The matrices of the experts of a mixture, one for each expert or joint in a tensor of three dimensions."""
        return tuple(
            name
            for name, shape in self.tensors.items()
            if len(shape) in (2, 3) and EXPERTS.search(name) and not _routes(name)
        )

    @property
    def columns(self) -> tuple[int, ...]:
        """The input widths of the linear layers."""
        return tuple(sorted({layer.columns for layer in self.linear_layers}))

    @property
    def rows(self) -> tuple[int, ...]:
        """The output widths of the linear layers."""
        return tuple(sorted({layer.rows for layer in self.linear_layers}))


def kind(module: str) -> str:
    """What a module with a matrix is by its name: embedding, head, router or linear."""
    parts = module.split(".")
    if parts[-1] in HEADS:
        return "head"
    if any(EMBEDDING.match(part) for part in parts):
        return "embedding"
    return "router" if _routes(module) else "linear"


def _routes(name: str) -> bool:
    parts = name.removesuffix(".weight").split(".")
    return parts[-1] in ROUTERS or "router" in parts


def local_shape(directory: Path, weight_files: list[str]) -> ModelShape:
    """The shape of a model on this machine."""
    tensors: dict[str, tuple[int, ...]] = {}
    for name in weight_files:
        with (directory / name).open("rb") as stream:
            tensors |= {tensor: info.shape for tensor, info in read_header(stream).tensors.items()}
    return ModelShape(json.loads((directory / "config.json").read_text()), tensors, directory / "tokenizer.json")
