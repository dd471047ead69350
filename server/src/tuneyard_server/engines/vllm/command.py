"""The command line of `vllm serve`."""

import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from tuneyard_api import cpu
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.kinds.vllm import Speculative, Vllm
from tuneyard_api.names import DRAFT_DIR
from tuneyard_server.engines.base import Command

Flags = dict[str, str]

# No downloads and no telemetry: the model is on the disk, and clusters may have no internet.
OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
}
# vLLM compiles some functions whatever enforce-eager says: a request for logprobs would end an engine that has no
# compiler. On the CPU compiling also takes minutes.
NEVER_COMPILE: Final = {"TORCHDYNAMO_DISABLE": "1"}
EAGER: Final[Flags] = {"enforce-eager": ""}
COMPILERS: Final = ("g++", "clang++", "c++")

CPU_DTYPE: Final = "bfloat16"
# On two cores with AVX2 alone eight requests got 28.6 tokens a second, and 8.1 in bfloat16 (vLLM 0.32).
AVX2_DTYPE: Final = "float32"
CPU_KV_CACHE_GIB: Final = 1

# Fields of spec.vllm whose value is the value of an option, by the option's name.
VALUES: Final = {
    "max-model-len": "max_model_len",
    "max-num-seqs": "max_num_seqs",
    "max-num-batched-tokens": "max_num_batched_tokens",
    "quantization": "quantization",
    "dtype": "dtype",
    "kv-cache-dtype": "kv_cache_dtype",
    "attention-backend": "attention_backend",
    "tool-call-parser": "tool_call_parser",
    "reasoning-parser": "reasoning_parser",
    "structured-outputs-config.backend": "structured_outputs",
}
# Fields that switch something on or off; without them vLLM decides.
SWITCHES: Final = {
    "enable-prefix-caching": "prefix_caching",
    "enable-chunked-prefill": "chunked_prefill",
    "enable-auto-tool-choice": "enable_auto_tool_choice",
}
# The watchdog and the kubelet ask for these every few seconds.
QUIET: Final[Flags] = {"disable-access-log-for-endpoints": "/health,/metrics"}
AUTO: Final = "auto"  # vLLM's own choice: the option is not given


def command(request: EngineRequest, options: Vllm, socket: Path) -> Command:
    """`vllm serve` for the build of vLLM that is installed."""
    can_compile = any(map(shutil.which, COMPILERS))
    dtype = AVX2_DTYPE if cpu.lacks("avx512f") else CPU_DTYPE
    return vllm_command(request, options, socket, cpu_build=is_cpu_build(), can_compile=can_compile, cpu_dtype=dtype)


def is_cpu_build() -> bool:
    """Whether vLLM was built for the CPU: its version then has a local part, as in 0.32.0+cpu."""
    try:
        return "cpu" in version("vllm").partition("+")[2]
    except PackageNotFoundError:
        return False


def vllm_command(
    request: EngineRequest,
    options: Vllm,
    socket: Path,
    *,
    cpu_build: bool,
    can_compile: bool = True,
    cpu_dtype: str = CPU_DTYPE,
) -> Command:
    """The command line of `vllm serve`.

    The user's extraArgs override the other fields. Last come the options that the proxy relies on: argparse takes the
    last one.
    """
    is_eager = cpu_build or not can_compile
    flags = EAGER | {"dtype": cpu_dtype} if cpu_build else (EAGER if is_eager else {}) | _gpu_flags(request, options)
    flags |= QUIET | typed_flags(options) | options.extra_args
    flags |= {"served-model-name": request.served_name, "uds": str(socket)}
    environment = OFFLINE | (NEVER_COMPILE if is_eager else {})
    environment |= _cpu_environment(request, options) if cpu_build else {}
    return Command(["vllm", "serve", str(request.model), *words(flags)], environment)


def words(flags: Flags) -> list[str]:
    """One word for each option: a value that begins with a dash is still a value."""
    return [f"--{name}={value}" if value else f"--{name}" for name, value in flags.items()]


def typed_flags(options: Vllm) -> Flags:
    """The options of the typed fields that are the same on CPU and GPU."""
    values = {name: getattr(options, field) for name, field in VALUES.items()}
    flags = {name: str(value) for name, value in values.items() if value not in (None, AUTO)}
    for name, field in SWITCHES.items():
        switched = getattr(options, field)
        if switched is None and field == "enable_auto_tool_choice" and options.tool_call_parser:
            switched = True
        if switched is not None:
            flags |= {name if switched else f"no-{name}": ""}
    if options.speculative:
        flags["speculative-config"] = json.dumps(speculative_config(options.speculative))
    return flags


def speculative_config(speculative: Speculative) -> dict[str, Any]:
    """vLLM's speculative decoding: https://docs.vllm.ai/en/stable/features/spec_decode/"""
    config: dict[str, Any] = {"num_speculative_tokens": speculative.tokens}
    if speculative.method == "draftModel":
        return config | {"method": "draft_model", "model": DRAFT_DIR}
    lookup = {
        "prompt_lookup_min": speculative.prompt_lookup_min,
        "prompt_lookup_max": speculative.prompt_lookup_max,
    }
    return config | {"method": "ngram"} | lookup


def _gpu_flags(request: EngineRequest, options: Vllm) -> Flags:
    """The model is split over all GPUs of the pod unless the spec says otherwise."""
    stages = options.pipeline_parallel_size or 1
    values = {
        "tensor-parallel-size": options.tensor_parallel_size or request.gpus // stages or None,
        "pipeline-parallel-size": options.pipeline_parallel_size,
        "gpu-memory-utilization": options.gpu_memory_utilization if request.gpus else None,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _cpu_environment(request: EngineRequest, options: Vllm) -> dict[str, str]:
    """The size of the key-value cache in GiB, and the number of threads.

    By default vLLM binds one thread to each core of the node, so a container with a CPU limit would be throttled. One
    thread is left to the API server, as vLLM does it: OpenMP threads that wait for one without a core are several times
    slower.
    """
    cache = {"VLLM_CPU_KVCACHE_SPACE": str(options.cpu_kv_cache_gib or CPU_KV_CACHE_GIB)}
    if not request.threads:
        return cache
    return cache | {"OMP_NUM_THREADS": str(max(1, request.threads - 1)), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
