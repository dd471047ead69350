"""The worker that loads a tokenizer with transformers' AutoTokenizer, as vLLM does, and writes it as one file.

What a model's tokenizer is depends on its class, the class's defaults, special_tokens_map.json, added_tokens_decoder
and flags of old versions: only transformers knows all of that. The file that is written here has it all resolved, so
that prepare, which does not import transformers, and every server get the same token ids from it.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TokenizerOutcome, TokenizerRequest
from tuneyard_trainer.data.tokenize.tokenizer import SAVE_TOKENIZER, TOKENIZER_CONFIG, TOKENIZER_FILE
from tuneyard_trainer.runtime.errors import BadInput, blamed_on
from tuneyard_trainer.runtime.worker_main import worker_main

# The class that reads tokenizer.json as it is; every version of transformers has this name for it.
GENERIC_CLASS: Final = "PreTrainedTokenizerFast"
# Of tokenizer_config.json: what a class of its own has read, and what no other machine needs.
DROPPED: Final = (
    *("add_bos_token", "add_eos_token", "add_prefix_space", "auto_map", "backend", "is_local"),
    *("legacy", "local_files_only", "name_or_path", "processor_class", "sp_model_kwargs", "use_default_system_prompt"),
)
FLAGS: Final = ("lstrip", "normalized", "rstrip", "single_word", "special")
POLL_SECONDS: Final = 0.01


def write_tokenizer(request: TokenizerRequest) -> TokenizerOutcome:
    """Writes tokenizer.json and tokenizer_config.json.

    Raises:
        BadInput: transformers cannot load the tokenizer, or it is none of the tokenizers library.
    """
    load = import_auto_tokenizer().from_pretrained
    while not request.ready_file.exists():
        time.sleep(POLL_SECONDS)
    cannot = f"transformers {version('transformers')} cannot load the tokenizer of {request.model_uri}"
    with blamed_on(cannot, reasons.INVALID_MODEL, SAVE_TOKENIZER):
        tokenizer = load(request.model, local_files_only=True, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BadInput(
            reasons.INVALID_MODEL,
            f"The tokenizer of {request.model_uri} is a {type(tokenizer).__name__}, which has no {TOKENIZER_FILE}",
            SAVE_TOKENIZER,
        )
    tokenizer.save_pretrained(request.output)
    # A limit in it would cut the rows here, and what people ask of a server.
    backend.no_truncation()
    backend.no_padding()
    (request.output / TOKENIZER_FILE).write_text(backend.to_str())
    make_generic(request.output / TOKENIZER_CONFIG, backend.get_added_tokens_decoder())
    return TokenizerOutcome()


def import_auto_tokenizer() -> Any:
    """transformers' AutoTokenizer, without torch: a tokenizer does not need it, and its import takes the longest."""
    nothing: Any = None
    sys.modules["torch"] = nothing
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # else it tells everybody that torch is missing
    from transformers import AutoTokenizer  # noqa: PLC0415

    return AutoTokenizer


def make_generic(path: Path, added: Mapping[int, Any]) -> None:
    """Names the class that reads tokenizer.json as it is: another one would build it anew by its own rules.

    The added tokens are written here too, where older programs look for them.
    """
    config: dict[str, Any] = json.loads(path.read_text())
    kept = {name: value for name, value in config.items() if name not in DROPPED}
    decoder = {
        str(number): {"content": token.content, **{flag: getattr(token, flag) for flag in FLAGS}}
        for number, token in sorted(added.items())
    }
    changed = {"tokenizer_class": GENERIC_CLASS, "added_tokens_decoder": decoder}
    path.write_text(json.dumps(kept | changed, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    worker_main(TokenizerRequest, write_tokenizer)
