"""vLLM's settings, as `tuneyard-server engine` takes them."""

from tuneyard_api.kinds.modelserver import ModelServerSpec


def arguments(spec: ModelServerSpec) -> list[str]:
    chosen = {
        "--max-model-len": spec.vllm.max_model_len,
        "--tensor-parallel-size": spec.vllm.tensor_parallel_size or (spec.resources.gpus or None),
        "--gpu-memory-utilization": spec.vllm.gpu_memory_utilization if spec.resources.gpus else None,
    }
    flags = [part for flag, value in chosen.items() if value is not None for part in (flag, str(value))]
    return flags + [
        part for key, value in sorted(spec.vllm.extra_args.items()) for part in ("--extra", f"{key}={value}")
    ]


def environment(spec: ModelServerSpec) -> dict[str, str]:
    return {} if spec.resources.gpus else {"VLLM_CPU_KVCACHE_SPACE": str(spec.vllm.cpu_kv_cache_gib or 1)}
