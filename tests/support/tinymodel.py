"""A chat model's directory as prepare sees it: configuration, tokenizer, template, and the names of its weights."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
SHAPES: Final = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "head_dim": 32}
CONFIG: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 1,
    "vocab_size": 258,
    **SHAPES,
}


def write_model(
    to: Path, *, template: str | None = TEMPLATE, weights: bool = True, plain: bool = False, **config: Any
) -> Path:
    """Writes the directory; a template goes into tokenizer_config.json.

    With `plain` the tokenizer is one that prepare takes as it is. Otherwise transformers loads it in a process of its
    own, which takes a second.
    """
    to.mkdir(parents=True)
    (to / "config.json").write_text(json.dumps({**CONFIG, **config}))
    tokenizer_config: dict[str, Any] = {
        "bos_token": TURN_START,
        "eos_token": {"__type": "AddedToken", "content": TURN_END},
    }
    if plain:
        tokenizer_config |= {"eos_token": TURN_END, "tokenizer_class": "PreTrainedTokenizerFast"}
    if template is not None:
        tokenizer_config["chat_template"] = template
    (to / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    byte_tokenizer().save(str(to / "tokenizer.json"))
    if weights:
        (to / "model.safetensors").write_bytes(safetensors(llama_shapes({**SHAPES, **config})))
    return to


def llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama with one layer."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    attention = config["num_attention_heads"] * config["head_dim"]
    vocabulary = byte_tokenizer().get_vocab_size()
    layer = "model.layers.0"
    return {
        "model.embed_tokens.weight": (vocabulary, hidden),
        **{f"{layer}.self_attn.{name}_proj.weight": (attention, hidden) for name in "qkv"},
        f"{layer}.self_attn.o_proj.weight": (hidden, attention),
        **{f"{layer}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")},
        f"{layer}.mlp.down_proj.weight": (hidden, inner),
        **{f"{layer}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")},
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }


def safetensors(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """A safetensors file whose tensors are all zero, in bfloat16."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and the two marks of a turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([TURN_START, TURN_END])
    return tokenizer
