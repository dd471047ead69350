"""spec.llamacpp of a ModelServer: the options of llama-server.

Options: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from typing import Literal

from pydantic import Field

from tuneyard_api.base import Model
from tuneyard_api.kinds.llamacpp_options import OPTIONS
from tuneyard_api.rules import Rule


class LlamaCpp(Model):
    max_model_len: int | None = Field(
        default=None, ge=16, description="Longest context of a request in tokens. Default: the model's own."
    )
    parallel: int = Field(
        default=4, ge=1, le=256, description="Requests that are answered at the same time; others wait. Default: 4."
    )
    kv_cache_type: Literal["f16", "bf16", "q8_0", "q4_0"] = Field(
        default="f16", alias="kvCacheType", description="Type of the key-value cache. Default: f16."
    )
    flash_attention: Literal["auto", "on", "off"] = Field(default="auto", description="Default: auto.")
    prompt_cache_mib: int = Field(
        default=0,
        ge=0,
        le=1048576,
        alias="promptCacheMiB",
        description="Memory for the caches of earlier prompts, in MiB, beside the running requests. Default: 0.",
    )
    gpu_layers: int | None = Field(
        default=None, ge=0, le=10000, description="Layers on the GPUs, the others on the CPU. Default: all that fit."
    )
    extra_args: dict[str, str] = Field(
        default={},
        description="More options of llama-server, by their long names without the dashes: {ubatch-size: '256'}. An "
        "empty value is a switch.",
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "llama-server's options stand here without the dashes in front: write ubatch-size, not --ubatch-size",
                lambda llamacpp: not any(option.startswith("-") for option in llamacpp.extra_args),
                field="extraArgs",
            ),
            Rule(
                "not an option of llama-server, or one that tuneyard sets: write its long name, or the field for it, "
                "such as maxModelLen for ctx-size",
                lambda llamacpp: all(option in OPTIONS or option.startswith("-") for option in llamacpp.extra_args),
                field="extraArgs",
            ),
        )
