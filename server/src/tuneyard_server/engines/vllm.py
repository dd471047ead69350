"""vLLM on a unix socket: CPU and CUDA builds take different options."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from tuneyard_server.engines.base import Command, EngineOptions

# Never a call to the outside: on-prem there is none, and nobody asked for one.
OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
}

# Compiling for the CPU takes minutes and wants a compiler.
CPU_OPTIONS: Final = {"enforce-eager": "", "dtype": "bfloat16"}


def command(options: EngineOptions) -> Command:
    return vllm_command(options, on_cpu=is_cpu_build())


def is_cpu_build() -> bool:
    """vLLM marks its builds in the local part of the version: 0.32.0+cpu."""
    try:
        return "cpu" in version("vllm").partition("+")[2]
    except PackageNotFoundError:
        return False


def vllm_command(options: EngineOptions, on_cpu: bool) -> Command:
    """The command line of `vllm serve`; the user's own options come last and win."""
    chosen: dict[str, str] = {"served-model-name": options.served_name, "uds": str(options.socket)}
    chosen |= CPU_OPTIONS if on_cpu else {}
    if options.max_model_len:
        chosen["max-model-len"] = str(options.max_model_len)
    if not on_cpu and options.tensor_parallel_size:
        chosen["tensor-parallel-size"] = str(options.tensor_parallel_size)
    if not on_cpu and options.gpu_memory_utilization:
        chosen["gpu-memory-utilization"] = str(options.gpu_memory_utilization)
    chosen |= options.extra
    flags = [part for name, value in chosen.items() for part in ([f"--{name}", value] if value else [f"--{name}"])]
    environment = OFFLINE | (_threads(options.threads) if on_cpu and options.threads else {})
    return Command(["vllm", "serve", str(options.model), *flags], environment)


def _threads(limit: int) -> dict[str, str]:
    """By itself vLLM binds a thread to each core of the node, and a container with a limit would be throttled.

    One is left to the API server, as vLLM does: threads that wait for one that has no core are several times slower.
    """
    return {"OMP_NUM_THREADS": str(max(1, limit - 1)), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
