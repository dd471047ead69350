"""A model's tokenizer, as AutoTokenizer builds it: see tokenizer_worker.py, which runs in a process of its own."""

import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TokenizerOutcome, TokenizerRequest
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, blamed_on
from tuneyard_trainer.runtime.userfiles import read_object, read_text
from tuneyard_trainer.runtime.worker import Program, run_worker

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
# What AutoTokenizer, or a server after export, reads beside tokenizer.json.
JSON_FILES: Final = (
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
)
READY_FILE: Final = "ready"
# The special tokens that have a name, which chat templates refer to.
SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SAVE_TOKENIZER: Final = (
    "Save its tokenizer with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)) there."
)
WORKER: Final = Program("tuneyard_trainer.data.tokenize.tokenizer_worker", TokenizerOutcome)


class TokenizerLoading:
    """Loads a tokenizer in a process of its own, which starts before the model's files are there.

    The process imports transformers, which takes a second, while the stage checks and downloads.
    """

    def __init__(self, context: StageContext, model: Path, output: Path) -> None:
        self._context, self._model, self._output = context, model, output
        self._ready = context.work / READY_FILE
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        shutil.rmtree(self._output, ignore_errors=True)
        self._output.mkdir(parents=True)
        self._ready.unlink(missing_ok=True)
        request = TokenizerRequest(
            model=self._model, model_uri=self._context.spec.model.uri, ready_file=self._ready, output=self._output
        )
        self._pool = ThreadPoolExecutor(1)
        context = replace(self._context, stopping=self._cancelled)
        self._future = self._pool.submit(run_worker, context, WORKER, request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled.set()
        self._pool.shutdown()

    def start(self) -> None:
        """The model's files are there.

        Raises:
            BadInput: the model has no tokenizer.json, or one of the files is broken.
        """
        check_files(self._model, self._context.spec.model.uri)
        self._ready.touch()

    def wait(self) -> None:
        """Waits until the tokenizer is written.

        Raises:
            BadInput: transformers cannot load it.
        """
        self._future.result()


def check_files(model: Path, uri: str) -> None:
    """Raises BadInput that names the file which is missing or broken; transformers' own words name none."""
    if not (model / TOKENIZER_FILE).is_file():
        raise BadInput(reasons.MODEL_NOT_FOUND, f"The model at {uri} has no {TOKENIZER_FILE}", SAVE_TOKENIZER)
    read_text(model / TOKENIZER_FILE, f"{uri}/{TOKENIZER_FILE}")
    for name in JSON_FILES:
        if (model / name).is_file():
            read_object(model / name, f"{uri}/{name}")


class ModelTokenizer:
    """A tokenizer of the tokenizers library, and its special tokens. What it raises names its file."""

    def __init__(self, directory: Path, uri: str) -> None:
        self.directory = directory
        """It has tokenizer.json and tokenizer_config.json."""
        self.name = f"{uri.rstrip('/')}/{TOKENIZER_FILE}"
        """Of the file, for messages."""

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        # Here, so that importing this module stays cheap.
        from tokenizers import Tokenizer  # noqa: PLC0415

        os.environ["TOKENIZERS_PARALLELISM"] = "true"  # nothing forks here; workers get an environment of their own
        text = read_text(self.directory / TOKENIZER_FILE, self.name)
        cannot = f"{self.name} cannot be read by tokenizers {version('tokenizers')}"
        with blamed_on(cannot, reasons.INVALID_MODEL, SAVE_TOKENIZER):
            tokenizer = Tokenizer.from_str(text)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            # It adds nothing to a rendered chat, but with trim_offsets it takes the blanks away from their tokens.
            nothing: Any = None
            tokenizer.post_processor = nothing
        return tokenizer

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The texts of bos_token, eos_token and so on, by these names."""
        config = read_object(self.directory / TOKENIZER_CONFIG, self.name)
        found = {name: config.get(name) for name in SPECIAL_TOKENS}
        texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
        return {name: value for name, value in texts.items() if isinstance(value, str)}

    @cached_property
    def size(self) -> int:
        """The tokens of the model, without those that were added."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    @cached_property
    def added_tokens(self) -> dict[int, str]:
        """The tokens that are one token wherever their text stands, such as the end of a turn, by id."""
        return {number: token.content for number, token in self._tokenizer.get_added_tokens_decoder().items()}

    def encode(self, texts: Sequence[str]) -> "list[Encoding]":
        """The tokens of rendered texts, special tokens included where a text has them.

        Raises:
            BadInput: the tokenizer fails, for example because it has no token for a character and no unknown token.
        """
        with blamed_on(f"{self.name} cannot tokenize a row", reasons.INVALID_MODEL, SAVE_TOKENIZER):
            return list(self._tokenizer.encode_batch(list(texts), add_special_tokens=False))
