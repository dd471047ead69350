"""A model's tokenizer, as AutoTokenizer builds it: see tokenizer_worker.py, which runs in a process of its own."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TokenizerOutcome, TokenizerRequest
from tuneyard_trainer.data.tokenize.encoding import Encoding, WholeEncoding
from tuneyard_trainer.data.tokenize.plain import GENERIC_CLASSES, is_plain
from tuneyard_trainer.data.tokenize.word_cache import WordCache, splits_at_words
from tuneyard_trainer.runtime.allocator import return_memory
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, blamed_on
from tuneyard_trainer.runtime.userfiles import read_object, read_text
from tuneyard_trainer.runtime.worker import Program, run_worker

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
CONFIG: Final = "config.json"
# What AutoTokenizer, or a server after export, reads beside tokenizer.json.
JSON_FILES: Final = (
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
)
OTHER_FILES: Final = ("special_tokens_map.json", "added_tokens.json", "tekken.json")
# Of tokenizer_config.json: what a class of its own has read, and what no other machine needs.
DROPPED: Final = (
    *("add_bos_token", "add_eos_token", "add_prefix_space", "auto_map", "backend", "chat_template", "is_local"),
    *("legacy", "local_files_only", "name_or_path", "processor_class", "sp_model_kwargs", "use_default_system_prompt"),
)
FLAGS: Final = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
# The special tokens that have a name, which chat templates refer to.
SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# A token that stands for a byte, as SentencePiece writes it.
BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")
SAVE_TOKENIZER: Final = (
    "Save its tokenizer with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)) there."
)
HUGE_NUMBER: Final = re.compile(r'":\s*\d{9,}\s*[,}]')
MOST_TOKENS: Final = 100_000_000
WORKER: Final = Program("tuneyard_trainer.data.tokenize.tokenizer_worker", TokenizerOutcome)


def write_served_tokenizer(context: StageContext, model: Path, output: Path) -> None:
    """Writes a model's tokenizer into `output`, as AutoTokenizer builds it: tokenizer.json and tokenizer_config.json.

    Raises:
        BadInput: the model has no tokenizer.json, one of its files is broken, or transformers cannot load it.
    """
    uri = context.spec.model.uri
    check_files(model, uri)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    if uses_tokenizer_as_it_is(model, uri):
        shutil.copyfile(model / TOKENIZER_FILE, output / TOKENIZER_FILE)
        shutil.copyfile(model / TOKENIZER_CONFIG, output / TOKENIZER_CONFIG)
    else:
        run_worker(context, WORKER, TokenizerRequest(model=model, model_uri=uri, output=output))
    make_generic(output / TOKENIZER_CONFIG, ModelTokenizer(output, uri))


def uses_tokenizer_as_it_is(model: Path, uri: str) -> bool:
    """See is_plain; false where other files beside tokenizer.json tell of the tokenizer."""
    needed = (TOKENIZER_CONFIG, CONFIG)
    if any((model / name).exists() for name in OTHER_FILES) or not all((model / name).is_file() for name in needed):
        return False
    bare, config = ModelTokenizer(model, uri), read_object(model / TOKENIZER_CONFIG, f"{uri}/{TOKENIZER_CONFIG}")
    text = read_text(model / TOKENIZER_FILE, bare.name)
    model_type = read_object(model / CONFIG, f"{uri}/{CONFIG}").get("model_type")
    return is_plain(text, _parse(text, bare.name).tokenizer, config, model_type, bare.special_tokens)


def make_generic(path: Path, tokenizer: "ModelTokenizer") -> None:
    """Names the class that reads tokenizer.json as it is: another one would build it anew by its own rules.

    The added tokens are written here too, where older programs look for them.
    """
    config: dict[str, Any] = json.loads(path.read_text())
    kept = {name: value for name, value in config.items() if name not in DROPPED}
    changed = {"tokenizer_class": GENERIC_CLASSES[0], "added_tokens_decoder": tokenizer.added_tokens_decoder}
    path.write_text(json.dumps(kept | changed, indent=2, ensure_ascii=False) + "\n")


def check_files(model: Path, uri: str) -> None:
    """Raises BadInput that names the file which is missing or broken; transformers' own words name none."""
    if not (model / TOKENIZER_FILE).is_file():
        raise BadInput(reasons.MODEL_NOT_FOUND, f"The model at {uri} has no {TOKENIZER_FILE}", SAVE_TOKENIZER)
    check_ids(read_text(model / TOKENIZER_FILE, f"{uri}/{TOKENIZER_FILE}"), f"{uri}/{TOKENIZER_FILE}")
    for name in JSON_FILES:
        if (model / name).is_file():
            read_object(model / name, f"{uri}/{name}")


def check_ids(text: str, name: str) -> None:
    """Raises BadInput for an id that no model has: the tokenizers library takes memory up to the largest."""
    if not HUGE_NUMBER.search(text):
        return
    try:
        document = json.loads(text)
        ids = [
            *document["model"]["vocab"].items(),
            *((each["content"], each["id"]) for each in document["added_tokens"]),
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return  # a list of pieces has no ids; of another file the library says what is wrong
    for token, number in ids:
        if isinstance(number, int) and number >= MOST_TOKENS:
            wrong = f"{name} gives the token {token!r} the id {number}, and no model has so many tokens"
            raise BadInput(reasons.INVALID_MODEL, wrong, SAVE_TOKENIZER)


class ModelTokenizer:
    """A tokenizer of the tokenizers library, and its special tokens. What it raises names its file."""

    def __init__(self, directory: Path, uri: str) -> None:
        self.directory = directory
        """It has tokenizer.json and tokenizer_config.json."""
        self.name = f"{uri.rstrip('/')}/{TOKENIZER_FILE}"
        """Of the file, for messages."""
        self._uri = uri

    def __reduce__(self) -> tuple[type["ModelTokenizer"], tuple[Path, str]]:
        """Another process reads the files itself."""
        return ModelTokenizer, (self.directory, self._uri)

    def read(self) -> object:
        """Reads the file, so that later readers of it in this process, and in those forked from it, need not."""
        return self._parsed

    @cached_property
    def _parsed(self) -> "_Parsed":
        # The process of a stage does not fork; one of those that share the CPUs has another value already.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        parsed = _parse(read_text(self.directory / TOKENIZER_FILE, self.name), self.name)
        return_memory()  # parsing takes as much again as what stays
        return parsed

    @property
    def _tokenizer(self) -> "Tokenizer":
        return self._parsed.tokenizer

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The texts of bos_token, eos_token and so on, by these names."""
        config = read_object(self.directory / TOKENIZER_CONFIG, self.name)
        found = {name: config.get(name) for name in SPECIAL_TOKENS}
        texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
        return {name: value for name, value in texts.items() if isinstance(value, str)}

    @cached_property
    def text_start(self) -> str:
        """The text of the tokens that the tokenizer puts before every text, such as <s>; empty where it has none."""
        # Here, so that importing this module stays cheap.
        from tokenizers import Tokenizer  # noqa: PLC0415

        whole = Tokenizer.from_str(read_text(self.directory / TOKENIZER_FILE, self.name))
        ids, bare = whole.encode("a").ids, whole.encode("a", add_special_tokens=False).ids
        before = ids[: max(0, len(ids) - len(bare))] if ids[len(ids) - len(bare) :] == bare else []
        return "".join(self.added_tokens.get(number, "") for number in before)

    @cached_property
    def size(self) -> int:
        """The tokens of the model, without those that were added."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    @property
    def largest(self) -> int:
        """The largest id of a token."""
        return self._parsed.largest

    @cached_property
    def added_tokens(self) -> dict[int, str]:
        """The tokens that are one token wherever their text stands, such as the end of a turn, by id.

        A token that stands for a byte is none of them, though some tokenizers list it: it is made of another text.
        """
        found = self._tokenizer.get_added_tokens_decoder().items()
        return {number: token.content for number, token in found if not BYTE.fullmatch(token.content)}

    @property
    def added_tokens_decoder(self) -> dict[str, dict[str, Any]]:
        """The added tokens as tokenizer_config.json has them."""
        found = sorted(self._tokenizer.get_added_tokens_decoder().items())
        return {str(number): {flag: getattr(token, flag) for flag in FLAGS} for number, token in found}

    @cached_property
    def _words(self) -> WordCache | None:
        return WordCache(self._tokenizer) if splits_at_words(self._tokenizer) else None

    def encode(self, texts: Sequence[str]) -> Sequence[Encoding]:
        """The tokens of rendered texts, special tokens included where a text has them.

        Raises:
            BadInput: the tokenizer fails, for example because it has no token for a character and no unknown token.
        """
        with blamed_on(f"{self.name} cannot tokenize a row", reasons.INVALID_MODEL, SAVE_TOKENIZER):
            if self._words is not None:
                return self._words.encode(texts)
            return list(map(WholeEncoding, self._tokenizer.encode_batch(list(texts), add_special_tokens=False)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


class _Parsed(NamedTuple):
    """The tokenizer in tokenizer.json, without limits and post-processor."""

    tokenizer: "Tokenizer"
    largest: int
    """The largest id of a token."""


@lru_cache(maxsize=1)
def _parse(text: str, name: str) -> _Parsed:
    """What is in tokenizer.json; two readers of a file get the same.

    Raises:
        BadInput: the tokenizers library cannot read it.
    """
    # Here, so that importing this module stays cheap.
    from tokenizers import Tokenizer  # noqa: PLC0415

    cannot = f"{name} cannot be read by tokenizers {version('tokenizers')}"
    with blamed_on(cannot, reasons.INVALID_MODEL, SAVE_TOKENIZER):
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # It adds nothing to a rendered chat, but with trim_offsets it takes the blanks away from their tokens.
        nothing: Any = None
        tokenizer.post_processor = nothing
    return _Parsed(tokenizer, max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0))
