"""A GGUF model through llama.cpp's own library and its Python binding, llama_cpp, of the same version."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuneyard_trainer.model.llamacpp import llamacpp_home

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Logits = NDArray[np.float32]


class Binding(NamedTuple):
    """The loaded library."""

    api: Any
    silent: Any
    """The callback that takes the log; the library calls it as long as it is loaded."""


@cache
def load_binding() -> Binding:
    """Loads the library, once, with the best code for this CPU.

    Raises:
        ValueError: llama.cpp is not installed.
    """
    home = llamacpp_home()
    if home is None:
        raise ValueError("TUNEYARD_LLAMACPP is not set")
    sys.path.insert(0, str(home / "python"))
    api = import_module("llama_cpp.llama_cpp")
    ggml = import_module("llama_cpp._ggml").libggml
    silent = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(silent, None)
    ggml.ggml_backend_load_all()
    api.llama_backend_init()
    return Binding(api, silent)


class Token(NamedTuple):
    """A token that is decoded."""

    id: int
    position: int
    sequence: int
    is_wanted: bool
    """Whether the logits of the token after it are wanted."""


class GgufModel:
    """A model in memory, with a context for one or several sequences."""

    def __init__(self, api: Any, model: Any, context: Any, batch_tokens: int) -> None:
        self._api, self._model, self._context, self._batch_tokens = api, model, context, batch_tokens
        self._vocabulary: int = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self._batch = api.llama_batch_init(batch_tokens, 0, 1)
        self.size_bytes: int = api.llama_model_size(model)
        """Of all tensors."""

    def logits(self, ids: Sequence[int], wanted: Sequence[int]) -> Iterator[tuple[list[int], Logits]]:
        """The logits of the wanted positions, in pieces: (positions, [positions, vocabulary]).

        A piece is valid until the next one is asked for.
        """
        chosen = set(wanted)
        self._forget()
        for piece, found in self._decode([Token(token, at, 0, at in chosen) for at, token in enumerate(ids)]):
            yield [token.position for token in piece], found

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """So many tokens after each prompt, each the most likely one; no token ends an answer."""
        self._forget()
        answers: list[list[int]] = [[] for _ in prompts]
        following = [
            Token(token, at, sequence, at + 1 == len(ids))
            for sequence, ids in enumerate(prompts)
            for at, token in enumerate(ids)
        ]
        for _ in range(tokens):
            last = [
                Token(int(row.argmax()), token.position + 1, token.sequence, True)
                for piece, found in self._decode(following)
                for token, row in zip(piece, found, strict=True)
            ]
            for token in last:
                answers[token.sequence].append(token.id)
            following = last
        return answers

    def _forget(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def _decode(self, tokens: Sequence[Token]) -> Iterator[tuple[list[Token], Logits]]:
        """The wanted ones of the tokens, in pieces, and their logits: [tokens, vocabulary]."""
        for start in range(0, len(tokens), self._batch_tokens):
            piece = tokens[start : start + self._batch_tokens]
            self._fill(piece)
            if code := self._api.llama_decode(self._context, self._batch):
                raise ValueError(f"llama_decode answered {code} for tokens {start} to {start + len(piece) - 1}")
            if wanted := [token for token in piece if token.is_wanted]:
                pointer = self._api.llama_get_logits(self._context)
                yield wanted, np.ctypeslib.as_array(pointer, shape=(len(wanted), self._vocabulary))

    def _fill(self, tokens: Sequence[Token]) -> None:
        self._batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            self._batch.token[index], self._batch.pos[index] = token.id, token.position
            self._batch.n_seq_id[index], self._batch.seq_id[index][0] = 1, token.sequence
            self._batch.logits[index] = token.is_wanted

    def close(self) -> None:
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)


@contextmanager
def loaded(
    file: Path, longest: int, threads: int | None, batch_tokens: int = 512, sequences: int = 1
) -> Iterator[GgufModel]:
    """A model for at most `sequences` rows at once, with at most `longest` tokens in all.

    Raises:
        ValueError: llama.cpp cannot load the file.
    """
    api = load_binding().api
    model = api.llama_model_load_from_file(str(file).encode(), api.llama_model_default_params())
    if not model:
        raise ValueError(f"llama.cpp cannot load {file.name}")
    options = api.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = longest, batch_tokens, batch_tokens
    # As llama-server has it: one cache, of which each sequence takes what it needs.
    options.n_seq_max, options.kv_unified = sequences, True
    if threads:
        options.n_threads = options.n_threads_batch = threads
    opened = GgufModel(api, model, api.llama_init_from_model(model, options), batch_tokens)
    try:
        yield opened
    finally:
        opened.close()


def count_other_tokens(file: Path, tokenizer: "Tokenizer", texts: Sequence[str]) -> int:
    """How many texts the file's tokenizer splits into other tokens than the model's own.

    Raises:
        ValueError: llama.cpp cannot load the file.
    """
    api = load_binding().api
    options = api.llama_model_default_params()
    options.vocab_only = True
    model = api.llama_model_load_from_file(str(file).encode(), options)
    if not model:
        raise ValueError(f"llama.cpp cannot load {file.name}")
    vocabulary = api.llama_model_get_vocab(model)
    try:
        return sum(
            _tokens(api, vocabulary, text) != tokenizer.encode(text, add_special_tokens=False).ids for text in texts
        )
    finally:
        api.llama_model_free(model)


def _tokens(api: Any, vocabulary: Any, text: str) -> list[int]:
    data = text.encode()
    tokens = (api.llama_token * (len(data) + 1))()
    found = api.llama_tokenize(vocabulary, data, len(data), tokens, len(tokens), False, True)
    return list(tokens[:found])
