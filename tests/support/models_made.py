"""Models whose tokenizer is more than tokenizer.json: directories that differ from a sound one in one thing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from support.tokenizers_made import byte_level, sentencepiece, write_tokenizer
from tuneyard_trainer.data.examples import Message, Messages

MARKS: Final = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHATML: Final = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
)


def _added(tokenizer: Tokenizer, *marks: str, **flags: bool) -> dict[str, Any]:
    """added_tokens_decoder for marks that the tokenizer does not have."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} | flags
    first = tokenizer.get_vocab_size()
    return {str(first + number): {"content": mark, **flags} for number, mark in enumerate(marks)}


def _write(to: Path, tokenizer: Tokenizer, files: dict[str, Any] | None = None, **config: Any) -> None:
    write_tokenizer(to, tokenizer, chat_template=CHATML, **config)
    for name, content in (files or {}).items():
        (to / name).write_text(json.dumps(content))


NAMED: Final[dict[str, Any]] = {"bos_token": "<s>", "eos_token": "</s>"}


def _sound(to: Path) -> None:
    _write(to, byte_level(MARKS), **NAMED)


def _map_only(to: Path) -> None:
    _write(to, byte_level(MARKS), {"special_tokens_map.json": NAMED})


def _map_with_objects(to: Path) -> None:
    described = {"content": "</s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    _write(to, byte_level(MARKS), {"special_tokens_map.json": {"bos_token": "<s>", "eos_token": described}})


def _map_adds(to: Path) -> None:
    named = {**NAMED, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    _write(to, byte_level(MARKS[:2]), {"special_tokens_map.json": named})


def _added_in_config(to: Path) -> None:
    tokenizer = byte_level(MARKS[:2])
    _write(to, tokenizer, added_tokens_decoder=_added(tokenizer, *MARKS[2:]), **NAMED)


def _added_and_stripping(to: Path) -> None:
    tokenizer = sentencepiece(MARKS[:2])
    _write(to, tokenizer, added_tokens_decoder=_added(tokenizer, *MARKS[2:], rstrip=True), **NAMED)


def _added_not_special(to: Path) -> None:
    tokenizer = byte_level(MARKS[:2])
    _write(to, tokenizer, added_tokens_decoder=_added(tokenizer, *MARKS[2:], special=False), **NAMED)


def _additional(to: Path) -> None:
    _write(to, byte_level(MARKS[:2]), additional_special_tokens=list(MARKS[2:]), **NAMED)


def _extra(to: Path) -> None:
    _write(to, byte_level(MARKS[:2]), extra_special_tokens=list(MARKS[2:]), **NAMED)


def _llama(**config: Any) -> Callable[[Path], None]:
    return lambda to: _write(to, sentencepiece(MARKS), **{"tokenizer_class": "LlamaTokenizer"} | config)


def _gemma(to: Path) -> None:
    _write(to, sentencepiece(("<pad>", "<eos>", "<bos>", *MARKS)), model_type="gemma", tokenizer_class="GemmaTokenizer")


def _qwen2(to: Path) -> None:
    config: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    _write(to, byte_level((*MARKS, "<|endoftext|>")), model_type="qwen2", **config)


def _gpt_neox(to: Path) -> None:
    tokenizer = byte_level((*MARKS, "<|endoftext|>"), trim_offsets=True)
    _write(to, tokenizer, model_type="gpt_neox", tokenizer_class="GPTNeoXTokenizer")


def _adds_its_own(to: Path) -> None:
    _write(to, sentencepiece(MARKS), tokenizer_class="LlamaTokenizer", add_bos_token=True, add_eos_token=True, **NAMED)


def _saved_limits(to: Path) -> None:
    tokenizer = byte_level(MARKS)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    _write(to, tokenizer, **NAMED)


def _normalized_marks(to: Path) -> None:
    tokenizer = sentencepiece(MARKS[:2])
    tokenizer.add_special_tokens([AddedToken(mark, normalized=True, lstrip=True) for mark in MARKS[2:]])
    _write(to, tokenizer, **NAMED)


MODELS: Final[dict[str, Callable[[Path], None]]] = {
    "sound": _sound,
    "map-only": _map_only,
    "map-with-objects": _map_with_objects,
    "map-adds": _map_adds,
    "added-in-config": _added_in_config,
    "added-and-stripping": _added_and_stripping,
    "added-not-special": _added_not_special,
    "additional": _additional,
    "extra": _extra,
    "llama-class": _llama(legacy=True, **NAMED),
    "llama-class-new": _llama(legacy=False, **NAMED),
    "llama-class-defaults": _llama(),
    "llama-fast": _llama(tokenizer_class="LlamaTokenizerFast", **NAMED),
    "gemma": _gemma,
    "qwen2": _qwen2,
    "gpt-neox": _gpt_neox,
    "adds-its-own": _adds_its_own,
    "saved-limits": _saved_limits,
    "normalized-marks": _normalized_marks,
}
CHATS: Final[tuple[Messages, ...]] = (
    (Message("user", "Why is it 1 + 1 = 2?"), Message("assistant", "So.\n    x = 1")),
    (
        *(Message("system", "Größe 🚀"), Message("user", " a\n"), Message("assistant", "  안녕  ")),
        *(Message("user", "\tx"), Message("assistant", "</s>?")),
    ),
)
