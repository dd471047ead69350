"""Tiny random models of many architectures, made with transformers' own classes."""

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY: Final = 512
COMMON: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GATED: Final[dict[str, Any]] = COMMON | {"num_key_value_heads": 2, "intermediate_size": 128}
MOE: Final[dict[str, Any]] = GATED | {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
SLIDING: Final[dict[str, Any]] = GATED | {"head_dim": 16, "sliding_window": 32}

# By model type; what differs from a Llama's configuration.
ARCHITECTURES: Final[dict[str, dict[str, Any]]] = {
    "llama": GATED,
    "mistral": GATED | {"head_dim": 16},
    "qwen2": GATED | {"tie_word_embeddings": True},
    "qwen3": GATED | {"head_dim": 16},
    "qwen3_moe": MOE | {"num_experts": 4, "head_dim": 16, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "mixtral": GATED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": SLIDING,
    "gemma3_text": SLIDING,
    "phi3": GATED,
    "phi": COMMON | {"intermediate_size": 128},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": COMMON | {"intermediate_size": 128},
    "olmo": GATED,
    "olmo2": GATED,
    "opt": COMMON | {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "cohere": GATED,
    "granite": GATED | {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "falcon": COMMON | {"new_decoder_architecture": False, "multi_query": True},
    "stablelm": GATED,
    "smollm3": GATED,
    "starcoder2": GATED,
    "gptj": {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 8},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "glm4": GATED | {"head_dim": 16},
    "olmoe": GATED | {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": GATED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_bigcode": {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
}


def write_tiny(model_type: str, directory: Path, max_shard_size: str = "1GB", **changes: Any) -> Path:
    """Writes a model with random weights in bfloat16, always the same ones."""
    config = AutoConfig.for_model(model_type, **(ARCHITECTURES[model_type] | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        # Norms and biases of a new model are ones and zeros, which hides what depends on them.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.1))
    model.to(torch.bfloat16).save_pretrained(directory, max_shard_size=max_shard_size)
    return directory
