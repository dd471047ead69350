"""Why vLLM ended, found in its log."""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from tuneyard_api import reasons
from tuneyard_server.engines.base import Cause, with_remedy

# The last line of a Python traceback: `ValueError: …`, `torch.OutOfMemoryError: …`.
ERROR_LINE: Final = re.compile(r"(?:^|\s)([\w.]*(?:Error|Exception)): (.+)")
# argparse's, after the usage of all options.
OPTION_LINE: Final = re.compile(r"^vllm serve: error: (.+)")
# vLLM's front process reports these after its engine process has logged the cause.
CONSEQUENCES: Final = re.compile(r"Engine core initialization failed|EngineDeadError|EngineCore encountered an issue")
# What is wrong with a request that was refused, and does not end the engine.
REFUSALS: Final = re.compile(r"\[serving\.py:|VLLMValidationError|VLLMClientError")

WRONG_OPTION: Final = "Correct spec.vllm; the options are at https://docs.vllm.ai/en/stable/cli/serve.html"
# What to do about causes that have a remedy, the first that matches.
REMEDIES: Final = (
    (
        re.compile(r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate"),
        reasons.OUT_OF_MEMORY,
        "Lower vllm.maxModelLen or vllm.maxNumSeqs, serve a smaller format of the model, or give the pod more memory.",
    ),
    (
        re.compile(r"KV cache is needed|No available memory for the cache blocks"),
        reasons.OUT_OF_MEMORY,
        "Lower vllm.maxModelLen, or raise vllm.gpuMemoryUtilization (on a CPU vllm.cpuKVCacheGiB).",
    ),
    (re.compile(r"max_model_len"), reasons.INVALID_SPEC, "Lower vllm.maxModelLen."),
    (
        re.compile(r"No working C\+\+ compiler|Failed to find C compiler"),
        reasons.ENGINE_CRASHED,
        "The image has no compiler: build it with images/build.",
    ),
    (
        re.compile(r"no attribute 'cpu_gemm_wna16'"),
        reasons.ENGINE_CRASHED,
        "vLLM has no kernel for 4-bit weights on a CPU without AVX-512: serve int8, bf16 or a GGUF format.",
    ),
)


def explain(lines: Iterable[str]) -> Cause:
    """The last error of the log that is a cause and not a consequence."""
    kept = [*lines]
    if option := _wrong_option(kept):
        return Cause(f"vLLM does not accept an option: {option}", reasons.INVALID_SPEC, WRONG_OPTION)
    said = [line for line in kept if not REFUSALS.search(line)]
    errors = [(found, after) for line, after in pairwise([*said, ""]) if (found := ERROR_LINE.search(line))]
    causes = [(found, after) for found, after in errors if not CONSEQUENCES.search(found[0])]
    if not errors:
        return Cause("no error in its log")
    found, after = (causes or errors)[-1]
    # pydantic writes what is wrong into the next line, followed by the whole input.
    text = after.partition(" [type=")[0] if "validation error" in found[2] else found[2]
    return with_remedy(f"{found[1]}: {text.strip()}", REMEDIES)


def _wrong_option(lines: list[str]) -> str:
    """What argparse says, without the list of all other values; pydantic's errors go on for two lines."""
    for at, line in enumerate(lines):
        if found := OPTION_LINE.match(line):
            more = lines[at + 1 : at + 3] if "validation error" in line else []
            text = " ".join(part.strip() for part in (found[1], *more))
            return re.sub(r"\s*(\((?:choose|chose) from|\[type=).*", "", text)
    return ""
