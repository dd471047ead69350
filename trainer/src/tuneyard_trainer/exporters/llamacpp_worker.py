"""The worker that writes a GGUF file. The converter imports torch; the other programs are llama.cpp's own binaries."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from gguf import GGUFReader
from gguf.gguf_reader import ReaderField, ReaderTensor
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import GgufOutcome, GgufRequest, ItemsDone
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_trainer.exporters import llamacpp_converter
from tuneyard_trainer.exporters.logits import ROW_TOKENS, Reference
from tuneyard_trainer.exporters.serving_files import GENERATION_CONFIG
from tuneyard_trainer.metrics.llamacpp_binding import count_other_tokens, loaded
from tuneyard_trainer.model.llamacpp import llamacpp_home
from tuneyard_trainer.runtime.errors import StageError
from tuneyard_trainer.runtime.worker_main import emit, worker_main
from tuneyard_trainer.weights.precision import fast_products

STEPS: Final = ("converting to GGUF", "computing the importance matrix", "quantizing", "comparing with the model")
# The merged model's own type, so that nothing is rounded twice.
FULL_PRECISION: Final = "bf16"
FULL: Final = "model-bf16.gguf"
MATRIX: Final = "imatrix.gguf"
TEXT: Final = "calibration.txt"
# Tokens of a chunk, as llama-imatrix has it by default; it needs two chunks at least.
CHUNK: Final = 512
K_QUANT_BLOCK: Final = 256
# The type of matrices whose rows do not divide by 256, where llama.cpp's own choice is a bad one: Q5_1 rounds between
# the smallest and the largest value of a block, with which the perplexity of a tuned SmolLM2-135M is a quarter higher.
FALLBACKS: Final = {"Q5_K_M": "q8_0"}
# The tokens at which llama.cpp stops, as a file names them: the end of a text, of a turn and of a message.
ENDS: Final = ("eos", "eot", "eom")
LOG_CHARACTERS: Final = 5000  # of a program that failed


def export(request: GgufRequest) -> GgufOutcome:
    """Writes the file; what the formats have in common is made for the first of them."""
    home = llamacpp_home()
    if home is None:
        raise ValueError("TUNEYARD_LLAMACPP is not set")
    threads = [] if request.threads is None else [str(request.threads)]
    progress(0)
    if not (request.shared / FULL).exists():
        convert(request)
    progress(1)
    matrix = importance(request, home, threads) if request.importance else []
    progress(2)
    quantizer: list[str | Path] = [
        home / "bin" / "llama-quantize",
        *matrix,
        *fallback_types(request),
        *end_options(stop_tokens(request.model), GGUFReader(request.shared / FULL).fields),
        FULL,
        request.output,
        request.quantization,
        *threads,
    ]
    run("llama-quantize", quantizer, request.shared)
    progress(3)
    return described(request).model_copy(update={"fidelity": compared(request)})


def fallback_types(request: GgufRequest) -> list[str]:
    """The options that choose the type of matrices that the type of the format cannot hold."""
    fallback = FALLBACKS.get(request.quantization)
    if fallback is None:
        return []
    names = {
        tensor.name.split(".", 2)[2]
        for tensor in matrices(request.shared / FULL)
        if tensor.name.startswith("blk.") and int(tensor.shape[0]) % K_QUANT_BLOCK
    }
    return [word for name in sorted(names) for word in ("--tensor-type", f"{re.escape(name)}={fallback}")]


def stop_tokens(model: Path) -> list[int]:
    """The tokens at which a server stops that reads generation_config.json; those that were trained come last."""
    stops = json.loads((model / GENERATION_CONFIG).read_text()).get("eos_token_id", [])
    return stops if isinstance(stops, list) else [stops]


def end_options(stops: Sequence[int], fields: Mapping[str, ReaderField]) -> list[str]:
    """The options that name the stop tokens which the converted file does not.

    llama.cpp does not read generation_config.json. Without these options it knows an end of a turn only by its text,
    and only the usual ones, such as <|im_end|>.

    Args:
        stops: where they are more than the file has names for, the last ones count.
    """
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ENDS]
    named = {key: fields[key].contents() for key in keys if key in fields}
    missing = [token for token in reversed(stops) if token not in named.values()]
    free = [key for key in keys if key not in named]
    return [word for key, token in zip(free, missing, strict=False) for word in ("--override-kv", f"{key}=int:{token}")]


def matrices(path: Path) -> list[ReaderTensor]:
    return [tensor for tensor in GGUFReader(path).tensors if len(tensor.shape) > 1]


def progress(step: int) -> None:
    emit(ItemsDone(done=step, total=len(STEPS), item=STEPS[step]))


def convert(request: GgufRequest) -> None:
    """Writes the model in full precision."""
    options = ["--outfile", FULL, "--outtype", FULL_PRECISION, "--model-name", request.name]
    command: list[str | Path] = [sys.executable, "-m", llamacpp_converter.__name__, request.model, *options]
    run("convert_hf_to_gguf.py", command, request.shared)


def importance(request: GgufRequest, home: Path, threads: Sequence[str]) -> list[str]:
    """The options that name the importance matrix, which is made where it is missing; none where there are few rows."""
    rows: list[list[int]] = json.loads(request.rows.read_text()) if request.rows else []
    chunk = chunk_size(sum(map(len, rows)))
    if chunk is None:
        return []
    if not (request.shared / MATRIX).exists():
        (request.shared / TEXT).write_text("".join(texts(tokenizer_of(request), rows)))
        options = ["-m", FULL, "-f", TEXT, "-o", MATRIX, "-c", str(chunk), "--parse-special", "--no-ppl"]
        options += ["--threads", *threads] if threads else []
        run("llama-imatrix", [home / "bin" / "llama-imatrix", *options], request.shared)
    return ["--imatrix", MATRIX]


def tokenizer_of(request: GgufRequest) -> Tokenizer:
    return Tokenizer.from_file(str(request.model / "tokenizer.json"))


def texts(tokenizer: Tokenizer, rows: Iterable[list[int]]) -> list[str]:
    """The rows as they are rendered for the model, special tokens included."""
    return [tokenizer.decode(row, skip_special_tokens=False) for row in rows]


def chunk_size(tokens: int) -> int | None:
    """The largest power of two of which the rows fill two chunks, with some tokens to spare; None below 16."""
    fitting = [size for size in (CHUNK, 256, 128, 64, 32, 16) if tokens >= 2 * size + 8]
    return next(iter(fitting), None)


def run(program: str, command: Sequence[str | Path], folder: Path) -> None:
    """Runs a program in the folder: files are named without their path, which some programs write into the file.

    Raises:
        StageError: it failed.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        print(done.stdout[-LOG_CHARACTERS:])
        message = f"{program} ended with {done.returncode}: {cause(done.stdout)}"
        raise StageError(reasons.STAGE_CRASHED, message, "See the pod's log.")


def cause(log: str) -> str:
    """The last line of Python's programs; of llama.cpp's the first that has the severity E."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [found[1] for line in lines if (found := re.match(r"[\d.]+ E (.+)", line))]
    return next(iter(errors or reversed(lines)), "no output")


def compared(request: GgufRequest) -> Fidelity:
    """How far llama.cpp's logits of the file are from transformers' of the merged model."""
    rows = json.loads(request.rows.read_text()) if request.rows else []
    reference = Reference(rows, request.shared / "logits")
    if not reference.is_written:
        merged = AutoModelForCausalLM.from_pretrained(request.model, dtype=torch.bfloat16, local_files_only=True)
        with fast_products():
            reference.write(merged)
    with loaded(request.output, ROW_TOKENS, request.threads) as model:
        return reference.compare_logits(
            torch.from_numpy(np.concatenate([logits.copy() for _, logits in model.logits(row, range(len(row)))]))
            for row in reference.rows
        )


def described(request: GgufRequest) -> GgufOutcome:
    """What the file is like."""
    widths = [int(tensor.shape[0]) for tensor in matrices(request.output)]
    needs_blocks = request.quantization.endswith(("_K_M", "_K_S"))
    rows = json.loads(request.rows.read_text()) if request.rows else []
    tokenizer = tokenizer_of(request)
    return GgufOutcome(
        tensors=len(widths),
        fallbacks=sum(width % K_QUANT_BLOCK > 0 for width in widths) if needs_blocks else 0,
        split_otherwise=count_other_tokens(request.output, tokenizer, texts(tokenizer, rows)),
        rows=len(rows),
    )


if __name__ == "__main__":
    worker_main(GgufRequest, export)
