"""Rows end to end train as rows one by one, whatever the model's attention; a model that cannot do this is padded."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training

from integration.conftest import VOCABULARY, token_rows
from tuneyard_trainer.backends.peft import batching as batching_module
from tuneyard_trainer.backends.peft.batches import end_to_end, padded, summed_loss
from tuneyard_trainer.backends.peft.batching import Batching
from tuneyard_trainer.data.columns import TokenizedRow

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 2,
}
WINDOW = {"sliding_window": 5}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}


def adapted(model_type: str, **config: Any) -> PeftModel:
    """A random model with an adapter that changes it."""
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(model_type, **config)
    base = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", SIZES),
    "Qwen2": ("qwen2", SIZES),
    "Qwen3": ("qwen3", SIZES | {"head_dim": 16}),
    "Mistral with a window": ("mistral", SIZES | WINDOW),
    "Phi-3 with a window": ("phi3", SIZES | WINDOW),
    "Gemma": ("gemma", SIZES | {"head_dim": 16}),
    "OLMo 2": ("olmo2", SIZES),
    "GPT-2": ("gpt2", GPT2),
    "GPT-NeoX": ("gpt_neox", {key: SIZES[key] for key in SIZES if key != "num_key_value_heads"}),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PeftModel:
    model_type, config = MODELS[request.param]
    return adapted(model_type, **config)


def losses(model: PeftModel, rows: list[TokenizedRow], collate: Callable[..., Any], some: bool) -> float:
    model.eval()
    return float(summed_loss(model, collate(rows), some).detach())


def gradients(model: PeftModel, rows: list[TokenizedRow], batching: Batching) -> torch.Tensor:
    model.zero_grad()
    summed_loss(model, batching.collate(rows), batching.with_some_logits).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def test_rows_end_to_end_have_the_loss_and_the_gradient_of_rows_one_by_one(model: PeftModel) -> None:
    rows = token_rows(12, seed=3)
    model.eval()
    expected = [losses(model, [row], padded, some=False) for row in rows]
    reference = gradients(model, rows, Batching(padded, with_some_logits=False))

    batching = Batching.of(model, rows, packing=True)
    assert batching_module._precision(model) == torch.float32
    assert batching.is_packed
    found = [losses(model, [row], end_to_end, batching.with_some_logits) for row in rows]
    assert found == pytest.approx(expected, rel=1e-4)
    assert losses(model, rows, end_to_end, batching.with_some_logits) == pytest.approx(sum(expected), rel=1e-4)
    assert torch.allclose(gradients(model, rows, batching), reference, rtol=1e-3, atol=1e-4)


def test_a_quantized_model_is_packed_whose_head_is_in_float32(tmp_path: Path) -> None:
    """QLoRA multiplies in bfloat16: on a GPU its logits differ more than those of a model in float32 do."""
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model("llama", **SIZES | {"hidden_size": 256, "intermediate_size": 512})
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path)
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=quantization
    )
    prepared = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    model = get_peft_model(prepared, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    rows = token_rows(12, seed=3)
    assert model(**padded(rows[:1])).logits.dtype == torch.float32
    assert batching_module._precision(model) == torch.bfloat16
    assert Batching.of(model, rows, packing=True).is_packed


def test_a_model_that_sees_other_rows_is_noticed(model: PeftModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention over the whole sequence, as without the bounds of the rows, is not taken for the same."""

    def one_long_row(rows: list[TokenizedRow]) -> dict[str, Any]:
        batch = end_to_end(rows)
        tokens = batch["input_ids"].shape[1]
        return batch | {"cu_seq_lens_q": torch.tensor([0, tokens], dtype=torch.int32)}

    monkeypatch.setattr(batching_module, "end_to_end", one_long_row)
    assert not Batching.of(model, token_rows(12, seed=3), packing=True).is_packed


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        pytest.param("gemma2", SIZES | {"head_dim": 16}, id="its scores are capped"),
        pytest.param("bloom", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4}, id="alibi"),
    ],
)
def test_other_attention_is_padded(model_type: str, config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = adapted(model_type, **config)
    rows = token_rows(6, seed=1)
    expected = sum(losses(model, [row], padded, some=False) for row in rows)
    batching = Batching.of(model, rows, packing=True)
    assert not batching.is_packed
    assert "Rows are padded" in capsys.readouterr().out
    assert losses(model, rows, padded, batching.with_some_logits) == pytest.approx(expected, rel=1e-4)


def test_nothing_is_padded_and_only_trained_tokens_reach_the_head() -> None:
    rows = token_rows(9, seed=random.Random(5).randrange(100))  # noqa: S311
    batch = end_to_end(rows)
    assert batch["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in rows))
    model = adapted("llama", **SIZES)
    seen: list[int] = []
    model.get_base_model().lm_head.register_forward_hook(lambda _, args, output: seen.append(output.numel()))
    summed_loss(model, batch, with_some_logits=True)
    assert seen == [sum(len(row["labels"]) - 3 for row in rows) * VOCABULARY]
