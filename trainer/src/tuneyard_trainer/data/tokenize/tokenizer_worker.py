"""The worker that loads a tokenizer with transformers' AutoTokenizer, as vLLM does, and writes it as one file.

What a model's tokenizer is depends on its class, the class's defaults, special_tokens_map.json, added_tokens_decoder
and flags of old versions: only transformers knows all of that. The file that is written here has it all resolved, so
that prepare, which does not import transformers, and every server get the same token ids from it.
"""

import os
import sys
from importlib.metadata import version
from typing import Any

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TokenizerOutcome, TokenizerRequest
from tuneyard_trainer.data.tokenize.tokenizer import SAVE_TOKENIZER, TOKENIZER_FILE
from tuneyard_trainer.runtime.errors import BadInput, blamed_on
from tuneyard_trainer.runtime.worker_main import worker_main


def write_tokenizer(request: TokenizerRequest) -> TokenizerOutcome:
    """Writes tokenizer.json and tokenizer_config.json.

    Raises:
        BadInput: transformers cannot load the tokenizer, or it is none of the tokenizers library.
    """
    load = import_auto_tokenizer().from_pretrained
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
    return TokenizerOutcome()


def import_auto_tokenizer() -> Any:
    """transformers' AutoTokenizer, without torch: a tokenizer does not need it, and its import takes the longest."""
    nothing: Any = None
    sys.modules["torch"] = nothing
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # else it tells everybody that torch is missing
    from transformers import AutoTokenizer  # noqa: PLC0415

    return AutoTokenizer


if __name__ == "__main__":
    worker_main(TokenizerRequest, write_tokenizer)
