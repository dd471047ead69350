"""Turns the GGUF of SmolLM2-135M-Instruct into a plain Hugging Face directory: what a user's own model looks like.

Run inside the trainer image: `make_model.py MODEL.gguf OUTPUT_DIRECTORY`. The same input gives the same bytes.
"""

import sys
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

END_OF_TURN = "<|im_end|>"
# The end of a document in SmolLM2's vocabulary: padding must not be the end of a turn, or a tuned model never stops.
PADDING = "<|endoftext|>"


def fixed_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the file, with the ends that the original has (in the GGUF a turn ends with its start)."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.eos_token, tokenizer.pad_token = END_OF_TURN, PADDING
    if not tokenizer.chat_template:
        raise SystemExit(f"{gguf} holds no chat template: it is not the instruct model")
    return tokenizer


def plain_model(gguf: Path, eos: int, pad: int) -> LlamaForCausalLM:
    """The dequantized model in bf16, as a model that was never quantized (one read from GGUF refuses to be saved)."""
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    config.eos_token_id, config.pad_token_id, config.dtype = eos, pad, torch.bfloat16
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=eos, pad_token_id=pad)
    return model


def greedy_answer(directory: Path, question: str) -> str:
    """What the saved model answers, read back from disk."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    turn = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def main() -> None:
    """Writes the directory, and checks that the model answers a question that it is known to answer."""
    gguf, output = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = fixed_tokenizer(gguf)
    model = plain_model(gguf, tokenizer.eos_token_id, tokenizer.pad_token_id)
    # Small shards: merging shard by shard is what large models need, so the demo does it too.
    model.save_pretrained(output, max_shard_size="100MB")
    tokenizer.save_pretrained(output)
    for file in output.iterdir():
        file.chmod(0o644)  # safetensors writes 0600
    answer = greedy_answer(output, "What is the capital of France?")
    if answer != "The capital of France is Paris.":
        raise SystemExit(f"the converted model answers {answer!r}: it is damaged")


if __name__ == "__main__":
    main()
