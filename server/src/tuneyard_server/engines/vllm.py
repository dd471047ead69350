"""vLLM, on CUDA or on the CPU: its CUDA and CPU builds take different options.

Options: https://docs.vllm.ai/en/stable/cli/serve.html
"""

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Final

from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.kinds.modelserver import Vllm
from tuneyard_server.engines.base import Command, Engine, Route

ROUTES: Final = (
    Route("/v1/models", "GET"),
    Route("/v1/chat/completions", "POST"),
    Route("/v1/completions", "POST"),
    Route("/v1/responses", "POST"),
    Route("/v1/embeddings", "POST", not_every_model=True),
    Route("/tokenize", "POST"),
    Route("/detokenize", "POST"),
)

# No downloads and no telemetry: the model is on the disk, and clusters may have no internet.
OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
}

# Compiling for the CPU takes minutes and needs a compiler, which the image does not have.
CPU_FLAGS: Final = {"enforce-eager": "", "dtype": "bfloat16"}
CPU_KV_CACHE_GIB: Final = 1

# The last line of a Python traceback: `ValueError: …`, `torch.OutOfMemoryError: …`.
ERROR_LINE: Final = re.compile(r"(?:^|\s)([\w.]*(?:Error|Exception)): (.+)")
# vLLM's front process reports this after its engine process has logged the cause.
CONSEQUENCE: Final = "Engine core initialization failed"


def command(request: EngineRequest, options: Vllm, socket: Path) -> Command:
    """`vllm serve` for the build of vLLM that is installed."""
    return vllm_command(request, options, socket, cpu_build=is_cpu_build())


def is_cpu_build() -> bool:
    """Whether vLLM was built for the CPU: its version then has a local part, as in 0.32.0+cpu."""
    try:
        return "cpu" in version("vllm").partition("+")[2]
    except PackageNotFoundError:
        return False


def vllm_command(request: EngineRequest, options: Vllm, socket: Path, *, cpu_build: bool) -> Command:
    """The command line of `vllm serve`. The user's extraArgs come last and override every default."""
    flags = {"served-model-name": request.served_name, "uds": str(socket)}
    if options.max_model_len:
        flags["max-model-len"] = str(options.max_model_len)
    flags |= CPU_FLAGS if cpu_build else _gpu_flags(request, options)
    flags |= options.extra_args
    words = [word for name, value in flags.items() for word in ([f"--{name}", value] if value else [f"--{name}"])]
    environment = OFFLINE | (_cpu_environment(request, options) if cpu_build else {})
    return Command(["vllm", "serve", str(request.model), *words], environment)


def _gpu_flags(request: EngineRequest, options: Vllm) -> dict[str, str]:
    """The model is split over all GPUs of the pod unless the spec says otherwise."""
    values = {
        "tensor-parallel-size": options.tensor_parallel_size or request.gpus or None,
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


def explain(lines: Iterable[str]) -> str:
    """The last error of the log that is a cause and not a consequence."""
    errors = [(match, after) for line, after in pairwise([*lines, ""]) if (match := ERROR_LINE.search(line))]
    causes = [(match, after) for match, after in errors if CONSEQUENCE not in match[2]]
    if not errors:
        return "no error in its log"
    match, after = (causes or errors)[-1]
    # pydantic writes what is wrong into the next line, followed by the whole input.
    text = after.partition(" [type=")[0] if "validation error" in match[2] else match[2]
    return f"{match[1]}: {text.strip()}"


ENGINE: Final = Engine(options=Vllm, command=command, routes=ROUTES, explain=explain)
