"""Tokenizers that transformers takes from tokenizer.json as they are, which need no worker.

Only what is surely so counts; a test compares it with transformers.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The classes that read tokenizer.json as it is.
GENERIC_CLASSES: Final = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Model types for which transformers believes tokenizer_class; for others, such as qwen2, it has a class of its own.
MODEL_TYPES: Final = ("llama", "gpt_neox", "granite", "olmo2", "qwen3")
# The fields of tokenizer_config.json that change nothing in it, beside the special tokens.
HARMLESS: Final = {
    *("backend", "chat_template", "clean_up_tokenization_spaces", "is_local", "local_files_only", "model_max_length"),
    *("padding_side", "tokenizer_class", "truncation_side"),
}
# transformers repairs the pattern of some larger ones.
VOCABULARY: Final = 100_000
NO_LIMITS: Final = re.compile(r'\s*{\s*"version":\s*"1\.0",\s*"truncation":\s*null,\s*"padding":\s*null')


def is_plain(
    text: str, tokenizer: "Tokenizer", config: Mapping[str, Any], model_type: object, special: Mapping[str, str]
) -> bool:
    """Whether transformers uses tokenizer.json unchanged.

    Args:
        text: of tokenizer.json.
        tokenizer: the same, read.
        config: tokenizer_config.json.
        model_type: of config.json.
        special: the special tokens in tokenizer_config.json.
    """
    return (
        model_type in MODEL_TYPES
        and config.get("tokenizer_class") in GENERIC_CLASSES
        and _tells_no_more(config, special)
        and set(special.values()) <= {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        and tokenizer.get_vocab_size() <= VOCABULARY
        and NO_LIMITS.match(text) is not None
    )


def _tells_no_more(config: Mapping[str, Any], special: Mapping[str, str]) -> bool:
    """Whether tokenizer_config.json has nothing but the texts of special tokens and harmless fields."""
    named = {name: text for name, text in config.items() if name.endswith("_token")}
    texts = {name: text for name, text in named.items() if text is not None}
    return config.keys() - named.keys() <= HARMLESS and texts == special
