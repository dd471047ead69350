"""llama.cpp's llama-server, which serves GGUF files on CPUs and GPUs.

Options: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.kinds.llamacpp import LlamaCpp
from tuneyard_server.engines.base import Cause, Command, Engine, Route, Work, with_remedy

ROUTES: Final = (
    Route("/v1/models", "GET"),
    Route("/v1/chat/completions", "POST"),
    Route("/v1/completions", "POST"),
    Route("/v1/responses", "POST"),
    Route("/v1/embeddings", "POST"),
    Route("/tokenize", "POST"),
    Route("/detokenize", "POST"),
)

# No web page, no state of other users' requests, no downloads.
FIXED: Final = {"jinja": "", "metrics": "", "no-slots": "", "no-ui": "", "offline": "", "log-colors": "off"}

# `error: …` of the command line, and lines of severity E of the log: `0.01.234.567 E srv    load_model: …`.
ERROR_LINE: Final = re.compile(r"^(?:error: |(?=error while handling argument)|[\d.]+ E (?:\w+\s+)?)(.+)")
# What to do about causes that have a remedy, the first that matches.
REMEDIES: Final = (
    (
        re.compile(r"failed to allocate|out of memory|bad_alloc|unable to allocate"),
        reasons.OUT_OF_MEMORY,
        "Lower llamacpp.maxModelLen or llamacpp.parallel, serve a smaller format, or give the pod more memory.",
    ),
    (
        re.compile(r"invalid argument|while handling argument"),
        reasons.INVALID_SPEC,
        "Correct spec.llamacpp; the options are at https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
    ),
)
REQUESTS: Final = ("requests_processing", "requests_deferred")
STEPS: Final = "n_decode_total"

# They follow an error that has been logged.
CONSEQUENCES: Final = ("exiting due to model loading error", "failed to load model", "cleaning up before exit")


def command(request: EngineRequest, options: LlamaCpp, socket: Path) -> Command:
    """`llama-server` on the one GGUF file of the model's directory. The user's extraArgs come last.

    Raises:
        ValueError: the directory has no GGUF file, or several.
    """
    flags = {"model": str(gguf_file(request.model)), "alias": request.served_name, "host": str(socket)}
    flags |= FIXED | _context(options) | _cache(options)
    if request.threads:
        flags["threads"] = str(request.threads)
    if options.gpu_layers is not None:
        flags["gpu-layers"] = str(options.gpu_layers)
    flags |= options.extra_args
    words = [word for name, value in flags.items() for word in ([f"--{name}", value] if value else [f"--{name}"])]
    return Command(["llama-server", *words], {})


def gguf_file(directory: Path) -> Path:
    """The model's file; of a model in several files the first, which names the others.

    Raises:
        ValueError: there is none, or there are several models.
    """
    files = sorted(directory.glob("*.gguf"))
    if len(files) > 1 and not all(re.search(r"-\d{5}-of-\d{5}\.gguf$", file.name) for file in files):
        raise ValueError(f"The artifact has several GGUF files: {', '.join(file.name for file in files)}.")
    if not files:
        raise ValueError("The artifact has no GGUF file. Set spec.engine: auto, or serve a gguf format.")
    return files[0]


def _context(options: LlamaCpp) -> dict[str, str]:
    """The key-value cache: `ctx-size` is the sum over the slots, unless they share it.

    Without a length each request may use the model's own, and the running ones share a cache of that size.
    """
    slots = {"parallel": str(options.parallel)}
    if options.max_model_len is None:
        return slots | {"ctx-size": "0", "kv-unified": ""}
    return slots | {"ctx-size": str(options.max_model_len * options.parallel), "no-kv-unified": ""}


def _cache(options: LlamaCpp) -> dict[str, str]:
    """llama-server would keep up to 8 GiB of earlier prompts, which is beyond the memory limit of many pods."""
    types = {"cache-type-k": options.kv_cache_type, "cache-type-v": options.kv_cache_type}
    return types | {"flash-attn": options.flash_attention, "cache-ram": str(options.prompt_cache_mib)}


def explain(lines: Iterable[str]) -> Cause:
    """The first error of the log that is a cause and not a consequence."""
    errors = [found[1].strip() for line in lines if (found := ERROR_LINE.match(line))]
    causes = [error for error in errors if not any(words in error for words in CONSEQUENCES)]
    message = next(iter(causes or errors), "no error in its log")
    return with_remedy(message, REMEDIES)


def work(metrics: str) -> Work | None:
    """The requests of the engine, and its calls of llama_decode."""
    values = dict(re.findall(r"^llamacpp:(\w+) (\S+)$", metrics, re.MULTILINE))
    if STEPS not in values:
        return None
    return Work(int(sum(float(values.get(name, 0)) for name in REQUESTS)), float(values[STEPS]))


ENGINE: Final = Engine(options=LlamaCpp, command=command, routes=ROUTES, explain=explain, work=work)
