"""Weights on the disk: the adapter is that of a model in memory, and the model may be larger than the memory."""

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from integration.runs import Run
from tuneyard_api.contracts.requests import STREAMED_WEIGHTS
from tuneyard_trainer.backends.peft.backend import native_config
from tuneyard_trainer.backends.peft.model import model_to_train
from tuneyard_trainer.backends.peft.streaming import Slot
from tuneyard_trainer.runtime.errors import BadInput

SETTINGS: dict[str, Any] = {"gradientCheckpointing": True, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}


def adapter(run: Run, *, streamed: bool) -> bytes:
    """What a run of four steps trains."""
    savers = (STREAMED_WEIGHTS,) if streamed else ()
    run.request = native_config(run.plain.model_copy(update={"memory_savers": savers}))
    outcome = run.train_here()
    assert outcome.curve[-1].validation_loss < outcome.curve[0].validation_loss
    return (run.folder / "output" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("training", [{"method": "lora"}, {"method": "qlora"}, {"method": "lora", "precision": "fp32"}])
def test_the_adapter_is_the_same(tmp_path: Path, model: Path, rows: Path, training: dict[str, Any]) -> None:
    given = {**SETTINGS, **training}
    in_memory = adapter(Run(tmp_path / "in-memory", model, rows, 4, **given), streamed=False)
    assert adapter(Run(tmp_path / "streamed", model, rows, 4, **given), streamed=True) == in_memory


def test_no_weight_of_a_layer_stays(tmp_path: Path, model: Path, rows: Path) -> None:
    run = Run(tmp_path / "run", model, rows, **SETTINGS)
    run.request = native_config(run.plain.model_copy(update={"memory_savers": (STREAMED_WEIGHTS,)}))
    tuned = model_to_train(run.request)
    tuned(input_ids=torch.tensor([[11, 12, 13]]), labels=torch.tensor([[11, 12, 13]])).loss.backward()
    frozen = {name: weight for name, weight in tuned.named_parameters() if not weight.requires_grad}
    assert {name for name, weight in frozen.items() if weight.untyped_storage().nbytes() > weight.element_size()} == {
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.model.norm.weight",
    }


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_no_weight_is_kept_between_forward_and_backward(tmp_path: Path, model: Path, rows: Path, method: str) -> None:
    """bitsandbytes holds the weights of a product in its node of the graph, where checkpointing does not see them."""
    run = Run(tmp_path / "run", model, rows, **SETTINGS, method=method)
    run.request = native_config(run.plain.model_copy(update={"memory_savers": (STREAMED_WEIGHTS,)}))
    tuned = model_to_train(run.request)
    tuned.gradient_checkpointing_enable(run.request.training_arguments["activation_checkpointing_kwargs"])
    tuned.train()
    read: list[weakref.ref[torch.Tensor]] = []
    fill = Slot.fill

    def filled(slot: Slot) -> None:
        fill(slot)
        read.append(weakref.ref(getattr(slot.module, slot.name)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Slot, "fill", filled)
        loss = tuned(input_ids=torch.tensor([[11, 12, 13]]), labels=torch.tensor([[11, 12, 13]])).loss
        forward = len(read)
        gc.collect()
        assert forward > 0
        assert [weight() for weight in read if weight() is not None] == []
        loss.backward()
    assert len(read) == 2 * forward


def test_gpt2(tmp_path: Path, rows: Path) -> None:
    """Its weights are the other way round, and its files name them without the model's prefix."""
    directory = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=320)).save_pretrained(directory)
    given = {**SETTINGS, "lora": {"rank": 4, "targetModules": ["c_attn", "c_proj"]}}
    in_memory = adapter(Run(tmp_path / "in-memory", directory, rows, 4, **given), streamed=False)
    assert adapter(Run(tmp_path / "streamed", directory, rows, 4, **given), streamed=True) == in_memory


def test_converted_weights_are_refused(tmp_path: Path, rows: Path) -> None:
    """transformers joins the experts of a mixture as it loads them."""
    directory = tmp_path / "moe"
    config = Qwen3MoeConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=4,
        num_experts_per_tok=2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(directory)
    run = Run(tmp_path / "run", directory, rows, **SETTINGS)
    run.request = native_config(run.plain.model_copy(update={"memory_savers": (STREAMED_WEIGHTS,)}))
    with pytest.raises(BadInput, match=r"cannot be streamed: its files have no tensor .*experts"):
        model_to_train(run.request)


LIMITED = """
import resource, sys
from pathlib import Path
import tuneyard_trainer.backends.peft.worker
from tuneyard_trainer.backends.peft.backend import PeftRequest
from tuneyard_trainer.runtime.worker_main import worker_main
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
limit = used + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
worker_main(PeftRequest, tuneyard_trainer.backends.peft.worker.fine_tune)
"""


def test_a_model_larger_than_the_memory(tmp_path: Path, rows: Path) -> None:
    """The limit, of what a process allocates, is below the size of the weights."""
    directory = tmp_path / "large"
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=20,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    ended = {}
    for savers in ((), (STREAMED_WEIGHTS,)):
        given = {**SETTINGS, "effectiveBatchSize": 1, "microBatchSize": 1, "maxLength": 32}
        run = Run(tmp_path / f"run-{len(savers)}", directory, rows, 1, **given)
        request = run.plain.model_copy(update={"memory_savers": savers, "validation_rows": None})
        path = tmp_path / f"request-{len(savers)}.json"
        path.write_text(native_config(request).model_dump_json(by_alias=True))
        command = [sys.executable, "-W", "ignore", "-c", LIMITED, str(path), str(weights * 3 // 5)]
        # The heap keeps freed blocks of many MB otherwise.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
        ended[savers] = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended[()].returncode == 1
    assert "Cannot allocate memory" in ended[()].stdout, ended[()].stdout[-1000:]
    assert ended[(STREAMED_WEIGHTS,)].returncode == 0, ended[(STREAMED_WEIGHTS,)].stderr[-1000:]
    result = json.loads(ended[(STREAMED_WEIGHTS,)].stdout.strip().split("\n")[-1].partition("\x1e")[2])
    assert result["result"]["steps"] == 1
