"""spec.vllm of a ModelServer: the options of vLLM 0.32 that most people need, and the rest in extraArgs."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from tuneyard_api.base import Model, S3Uri
from tuneyard_api.rules import Obeys, Rule, matches

ServedDigest = Annotated[
    str,
    Field(max_length=71),
    Obeys(
        matches(
            r"sha256:[0-9a-f]{64}",
            "not a digest: write sha256: and 64 hexadecimal digits, as in the FineTuneJob's status.artifacts",
            cel=True,
        )
    ),
]

# A name that only vLLM can check. fetch asks it, before the engine starts.
VllmName = Annotated[
    str,
    Field(max_length=64),
    Obeys(
        matches(r"[A-Za-z0-9][-._A-Za-z0-9]*", "not a name that vLLM may know: write letters, digits, '-', '_' and '.'")
    ),
]

# Options that the pod itself decides on, by what to write instead.
OWNED: Final[Mapping[str, tuple[str, ...]]] = {
    "the artifact is fetched and verified before the engine starts: write spec.model": (
        *("model", "model-tag", "config", "download-dir", "revision", "hf-token"),
    ),
    "the model has the ModelServer's name": ("served-model-name",),
    "the proxy reaches the engine through its socket, and clients reach port 80 of the Service: leave it out": (
        *("uds", "host", "port", "root-path", "headless", "grpc", "grpc-port"),
        *("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "enable-ssl-refresh"),
    ),
    "the proxy checks the keys: write spec.auth": ("api-key",),
    "the proxy answers browsers: write spec.cors": (
        *("allowed-origins", "allowed-methods", "allowed-headers", "allow-credentials"),
    ),
}


def _leaves_out(options: tuple[str, ...], instead: str) -> Rule:
    *others, last = options
    listed = f"{', '.join(others)} or {last}" if others else last
    return Rule(
        f"cannot have {listed}: {instead}",
        lambda vllm: not any(option in vllm.extra_args for option in options),
        cel=f"!has(self.extraArgs) || !{[*options]}.exists(option, option in self.extraArgs)",
        field="extraArgs",
    )


class DraftModel(Model):
    """A small model of the same vocabulary, which is fetched and verified as the model is."""

    uri: S3Uri
    digest: ServedDigest


class Speculative(Model):
    """Speculative decoding: tokens are guessed cheaply, and the model verifies several of them in one step.

    The answers stay the same with temperature 0, and have the same distribution otherwise.
    """

    method: Literal["ngram", "draftModel"] = Field(
        description="ngram: guesses by what the prompt repeats, needs no second model. draftModel: a smaller model of "
        "the same vocabulary guesses."
    )
    tokens: int = Field(default=4, ge=1, le=64, description="Tokens that are guessed at once. Default: 4.")
    model: DraftModel | None = Field(
        default=None, description="The draft model; its store access is the model's own secretRef."
    )
    prompt_lookup_min: int = Field(
        default=2, ge=1, le=64, description="ngram: tokens that must be the same at least. Default: 2."
    )
    prompt_lookup_max: int = Field(
        default=5, ge=1, le=64, description="ngram: tokens that are compared at most. Default: 5."
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "method draftModel needs model (uri and digest), and ngram takes none",
                lambda speculative: (speculative.method == "draftModel") == (speculative.model is not None),
                cel="(self.method == 'draftModel') == has(self.model)",
            ),
            Rule(
                "write at least promptLookupMin, which is 2 by default",
                lambda speculative: speculative.prompt_lookup_max >= speculative.prompt_lookup_min,
                field="promptLookupMax",
            ),
        )


class Vllm(Model):
    """Options of vLLM. Without a field vLLM decides."""

    quantization: VllmName | None = Field(
        default=None,
        description="How the weights are quantized: auto (what the artifact says), or a method that quantizes while it "
        "loads, such as fp8. Default: auto.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = Field(
        default=None,
        description="Of activations and of weights that are not quantized. Default: auto; on a CPU bfloat16, and "
        "float32 where it has no AVX-512.",
    )
    max_model_len: int | None = Field(
        default=None, ge=16, description="Longest context in tokens. Default: the model's own."
    )
    max_num_seqs: int | None = Field(default=None, ge=1, le=65536, description="Requests that run at once, at most.")
    max_num_batched_tokens: int | None = Field(
        default=None, ge=1, description="Tokens in one step at most: with chunkedPrefill a long prompt takes several."
    )
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1, description="Default: vLLM's, 0.9.")
    tensor_parallel_size: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="GPUs that share each layer. Default: resources.gpus / pipelineParallelSize.",
    )
    pipeline_parallel_size: int | None = Field(
        default=None, ge=1, le=64, description="Groups of GPUs that have some layers each. Default: 1."
    )
    prefix_caching: bool | None = Field(
        default=None, description="Keeps the key-value cache of common beginnings of prompts. Default: true."
    )
    chunked_prefill: bool | None = Field(
        default=None, description="Long prompts are computed in parts, between the steps of running requests."
    )
    kv_cache_dtype: VllmName | None = Field(
        default=None, description="Of the key-value cache: auto, bfloat16, fp8, fp8_e4m3, fp8_e5m2, ... Default: auto."
    )
    attention_backend: VllmName | None = Field(
        default=None, description="FLASH_ATTN, FLASHINFER, TRITON_ATTN, ... Default: auto, the best that is installed."
    )
    structured_outputs: Literal["auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"] | None = Field(
        default=None, description="What keeps answers to a JSON schema or a grammar. Default: auto."
    )
    tool_call_parser: VllmName | None = Field(
        default=None,
        description="How the model writes tool calls: hermes, llama3_json, mistral, qwen3_xml, ... With it clients may "
        "leave tool_choice at auto.",
    )
    enable_auto_tool_choice: bool | None = Field(
        default=None,
        description="Whether the model may choose to call a tool. Default: true where toolCallParser is set.",
    )
    reasoning_parser: VllmName | None = Field(
        default=None, description="How the model marks its reasoning, which is then kept apart: deepseek_r1, qwen3, ..."
    )
    speculative: Speculative | None = None
    cpu_kv_cache_gib: int | None = Field(
        default=None, ge=1, alias="cpuKVCacheGiB", description="Key-value cache on a CPU, in GiB. Default: 1."
    )
    extra_args: dict[str, str] = Field(
        default={},
        description="More vLLM options, without the dashes: {max-logprobs: '5'}. An empty value is a switch.",
    )

    @property
    def draft(self) -> DraftModel | None:
        """The draft model of speculative decoding."""
        return self.speculative.model if self.speculative else None

    @property
    def gpus_needed(self) -> int:
        """GPUs that the model is split over at least."""
        return (self.tensor_parallel_size or 1) * (self.pipeline_parallel_size or 1)

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "vLLM's options stand here as its manual has them, without the dashes in front: write max-num-seqs, "
                "not --max-num-seqs or max_num_seqs",
                lambda vllm: all(re.fullmatch(r"[a-z][-a-z0-9]*(\.[-\w]+)*", option) for option in vllm.extra_args),
                field="extraArgs",
            ),
            *(_leaves_out(options, instead) for instead, options in OWNED.items()),
            Rule(
                "the model calls tools by itself only where toolCallParser says how it writes them: add it",
                lambda vllm: not vllm.enable_auto_tool_choice or vllm.tool_call_parser is not None,
                cel="!has(self.enableAutoToolChoice) || !self.enableAutoToolChoice || has(self.toolCallParser)",
                field="enableAutoToolChoice",
            ),
        )
