"""The names that a spec may use, one line each.

What a name stands for is implemented in one file of the package that runs it: an artifact format, a backend, a metric,
a gate and a data format in the trainer, an engine in the server, a strategy in the operator. The file has the entry's
name in snake_case, and is found by it. Schema, error messages and docs/api.md follow from these tables.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class DataFormat(NamedTuple):
    """The fields of a row of training data."""

    description: str


class ArtifactFormat(NamedTuple):
    """How the weights of a published model are stored."""

    description: str
    engines: tuple[str, ...]
    """The engines that can load it."""
    calibrated: bool = False
    """Whether it cannot be made without rows."""
    cpu_flag: str | None = None
    """The flag of an x86 CPU, as in /proc/cpuinfo, without which it cannot be served there."""


class Ladder(NamedTuple):
    """Formats that are tried from the smallest up, until the gates pass."""

    description: str
    rungs: tuple[str, ...]
    """Artifact formats, smallest first."""


class Backend(NamedTuple):
    """A library that trains, and what it can do: a job that asks for more is refused."""

    description: str
    methods: tuple[str, ...]
    """The values of training.method that it implements."""
    rows: tuple[str, ...] = ("chat", "text")
    """The kinds of rows that it trains: chat, text, preference; see tuneyard_trainer.data.columns."""
    image: str = "trainer"
    """The role of its image in the operator's settings."""
    variants: tuple[str, ...] = ("lora", "rslora", "dora")
    """The values of training.lora.variant that it implements."""
    has: tuple[str, ...] = ()
    """Those fields of tuneyard_api.kinds.training.OPTIONAL that it has; a job that sets another one is refused."""
    needs_gpu: bool = False
    max_devices: int | None = None
    """GPUs of all nodes that can train together; None: any number."""


class Engine(NamedTuple):
    """A program that serves a model over the OpenAI API."""

    description: str
    image: str = "server"
    """The role of its image in the operator's settings."""


class Strategy(NamedTuple):
    """How a ModelServer moves its traffic to a new revision."""

    description: str


class Metric(NamedTuple):
    """A figure that evaluate measures of each model."""

    description: str
    higher_is_better: bool = False


class GateBound(NamedTuple):
    """A way to bound a metric; the gate's field has its name, and takes a number above 0."""

    description: str


DATA_FORMATS: Final[dict[str, DataFormat]] = {
    "preference": DataFormat("prompt, chosen, rejected"),
    "messages": DataFormat("OpenAI chat, with tools and tool calls"),
    "sharegpt": DataFormat("conversations with from and value"),
    "alpaca": DataFormat("instruction, input, output; also Dolly"),
    "prompt-completion": DataFormat("also question/answer"),
    "text": DataFormat("plain text, all of which is trained"),
}
ARTIFACT_FORMATS: Final[dict[str, ArtifactFormat]] = {
    "bf16": ArtifactFormat("the merged model", engines=("vllm",)),
    "fp16": ArtifactFormat("the merged model for GPUs without bfloat16", engines=("vllm",)),
    "int8": ArtifactFormat("W8A8 (SmoothQuant + GPTQ)", engines=("vllm",), calibrated=True),
    "fp8": ArtifactFormat("FP8 W8A8 for GPUs that compute with it, without calibration", engines=("vllm",)),
    "gptq": ArtifactFormat("INT4 W4A16 (GPTQ)", engines=("vllm",), calibrated=True, cpu_flag="avx512f"),
    "awq": ArtifactFormat("INT4 W4A16, asymmetric (AWQ)", engines=("vllm",), calibrated=True, cpu_flag="avx512f"),
    "gguf-q4_k_m": ArtifactFormat("llama.cpp, 4 to 5 bits a weight", engines=("llamacpp",)),
    "gguf-q5_k_m": ArtifactFormat("llama.cpp, 5 to 6 bits a weight", engines=("llamacpp",)),
    "gguf-q8_0": ArtifactFormat("llama.cpp, 8.5 bits a weight", engines=("llamacpp",)),
}
LADDERS: Final[dict[str, Ladder]] = {
    "auto": Ladder("the smallest of gptq, int8 and bf16 whose gates pass", rungs=("gptq", "int8", "bf16")),
    "auto-gguf": Ladder(
        "the same for llama.cpp, of gguf-q4_k_m, gguf-q5_k_m and gguf-q8_0",
        rungs=("gguf-q4_k_m", "gguf-q5_k_m", "gguf-q8_0"),
    ),
}
BACKENDS: Final[dict[str, Backend]] = {
    "peft": Backend(
        "Hugging Face PEFT",
        methods=("lora", "qlora", "full"),
        rows=("chat", "text", "preference"),
        has=("attention", "dpo", "packing", "streamWeights", "useLigerKernel"),
    ),
    "axolotl": Backend(
        "Axolotl",
        methods=("lora", "qlora"),
        image="axolotl",
        variants=("lora", "rslora"),
        has=("attention", "overrides", "packing"),
    ),
    "unsloth": Backend(
        "Unsloth, on one GPU",
        methods=("lora", "qlora"),
        image="unsloth",
        variants=("lora", "rslora"),
        needs_gpu=True,
        max_devices=1,
    ),
}
ENGINES: Final[dict[str, Engine]] = {
    "vllm": Engine("vLLM"),
    "llamacpp": Engine("llama.cpp, for GGUF", image="llamacpp"),
}
STRATEGIES: Final[dict[str, Strategy]] = {
    "Auto": Strategy("as Surge where there is room for the new pods; else replicas of the old revision go first"),
    "Surge": Strategy("the new revision becomes ready beside the old one, which is never taken down for it"),
    "Recreate": Strategy("the old revision is taken down before the new one starts"),
}
METRICS: Final[dict[str, Metric]] = {
    "perplexity": Metric("of the answers of the held-out rows"),
    "generalPerplexity": Metric("of the held-out rows of dataset.replay"),
}
GATES: Final[dict[str, GateBound]] = {
    "maxRatio": GateBound("Passes while the measured value is at most this times the reference."),
}

# The metric that only jobs with dataset.replay have.
GENERAL_METRIC: Final = "generalPerplexity"

# The model before tuning and after it, as measurements and gates name them; the others are artifact formats.
BASE: Final = "base"
TUNED: Final = "tuned"
# The format that all others are made of.
MERGED_FORMAT: Final = "bf16"


def subject_of(artifact_format: str, merged: str = TUNED) -> str:
    """The name of an artifact's model in measurements and gates.

    Args:
        merged: the name of the merged model: it is the tuned model itself, or the base model where nothing is tuned.
    """
    return merged if artifact_format == MERGED_FORMAT else artifact_format


def format_measured(subject: str) -> str:
    """The artifact format of a measured model: base and tuned have the merged model's."""
    return MERGED_FORMAT if subject in (BASE, TUNED) else subject


def engine_of(artifact_format: str | None) -> str:
    """The engine that serves a format by default; of an unknown format, the first one that is registered."""
    known = ARTIFACT_FORMATS.get(artifact_format or "")
    return known.engines[0] if known and known.engines else next(iter(ENGINES))


def loads(engine: str, artifact_format: str | None) -> bool:
    """Whether an engine can load a format; an unknown format is not ruled out."""
    known = ARTIFACT_FORMATS.get(artifact_format or "")
    return known is None or engine in known.engines


def described(registry: Mapping[str, Any]) -> str:
    """The entries of a registry in one line, for a field's description."""
    return " ".join(f"{name}: {entry.description}." for name, entry in registry.items())


def module_name(entry: str) -> str:
    """The name of the module that implements an entry: prompt-completion is prompt_completion, maxRatio max_ratio."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|-", "_", entry).lower()


class OneOf:
    """Annotates a string that must be a name of a registry, or one of `more`.

    The registry is read whenever a value is validated or a schema generated.
    """

    def __init__(self, registry: Mapping[str, Any], *more: str) -> None:
        self._registry = registry
        self._more = more

    @property
    def names(self) -> list[str]:
        return [*self._more, *self._registry]

    def _check(self, value: str) -> str:
        if value in self.names:
            return value
        *others, last = [f"'{name}'" for name in self.names]
        expected = f"{', '.join(others)} or {last}" if others else last
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": self.names}
