"""Small tokenizers of the two kinds that chat models have, trained on the spot."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT: Final = [
    "Why is the sky blue? Because the air scatters the light. So, yes. The user asks, the assistant answers.",
    "def f(x):\n    return x + 1\n\n\tx = 2  # a comment\n",
    "Größe, Äpfel, e\u0301 — 안녕하세요 test one two three 1 + 1 = 2 ( a ) <b> final end INST system model",
]


def byte_level(marks: tuple[str, ...], *, trim_offsets: bool = False) -> Tokenizer:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return tokenizer


def sentencepiece(marks: tuple[str, ...], *, strips: bool = False) -> Tokenizer:
    """BPE with the normalizer of Llama 2, as converted SentencePiece models have it.

    Args:
        strips: the marks take in the white space behind them, as those of Phi-3 do.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", *(f"<0x{number:02X}>" for number in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*TEXT] * 3, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(mark, special=True, normalized=False, rstrip=strips and mark != marks[0]) for mark in marks]
    )
    return tokenizer


KINDS: Final[dict[str, Callable[[tuple[str, ...]], Tokenizer]]] = {
    "byte-level": byte_level,
    "byte-level-trims": partial(byte_level, trim_offsets=True),
    "sentencepiece": sentencepiece,
    "sentencepiece-strips": partial(sentencepiece, strips=True),
}


def write_tokenizer(to: Path, tokenizer: Tokenizer, *, model_type: str = "llama", **config: Any) -> Path:
    """Writes a model's directory without weights; `config` goes into tokenizer_config.json."""
    to.mkdir(parents=True, exist_ok=True)
    (to / "config.json").write_text(json.dumps({"model_type": model_type}))
    (to / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config))
    tokenizer.save(str(to / "tokenizer.json"))
    return to
