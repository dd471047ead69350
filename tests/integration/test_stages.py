"""train, export and evaluate as the pods run them: real store, real workers, a tiny model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from integration.conftest import ContextFactory
from tuneyard_api import reasons
from tuneyard_store.artifact import fetch_directory, read_manifest
from tuneyard_trainer.runtime.checkpoints import Checkpoints
from tuneyard_trainer.runtime.stage_runner import Json, StageContext, run_stage


def result_of(context: StageContext) -> Json:
    outcome = run_stage(context)
    assert outcome.succeeded, outcome
    assert outcome.result is not None
    return outcome.result


@pytest.fixture
def chain(new_context: ContextFactory) -> ContextFactory:
    """Runs the stages up to one and returns that one's context, not run yet."""

    def make(last: str, **changes: Any) -> StageContext:
        for stage in ("train", "export"):
            if stage == last:
                break
            result_of(new_context(stage, **changes))
        return new_context(last, **changes)

    return make


@pytest.mark.parametrize(("method", "formats"), [("lora", ["bf16", "int8", "gptq"]), ("qlora", ["bf16"])])
def test_the_chain(chain: ContextFactory, tmp_path: Path, method: str, formats: list[str]) -> None:
    evaluate = chain("evaluate", training={"method": method}, export={"formats": formats})
    trained, exported = evaluate.result_of("train"), evaluate.result_of("export")
    assert trained["steps"] == 12
    assert trained["loss"] < math.log(320)  # a guess

    adapter = tmp_path / "adapter"
    manifest = fetch_directory(evaluate.store, trained["adapterURI"], adapter, trained["adapterDigest"])
    assert {file.path for file in manifest.files} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "s3://bucket/model"

    assert [item["format"] for item in exported["artifacts"]] == formats
    for item in exported["artifacts"]:
        manifest = read_manifest(evaluate.store, item["uri"])
        assert (manifest.digest, manifest.size_bytes) == (item["digest"], item["sizeBytes"])
        assert b"/tmp" not in evaluate.store.read(f"{item['uri']}/config.json")

    result = result_of(evaluate)
    assert set(result["perplexity"]) == {"base", "tuned", *formats} - {"bf16"}
    assert result["perplexity"]["tuned"] < 0.9 * result["perplexity"]["base"]
    assert {gate["subject"] for gate in result["gates"]} == {"tuned", *formats} - {"bf16"}
    report = json.loads(evaluate.store.read(evaluate.uri("evaluate", "report.json")))
    assert report["perplexity"] == result["perplexity"]
    assert b"<svg" in evaluate.store.read(result["reportURI"])


def test_the_merged_model_is_base_plus_adapter(chain: ContextFactory, model: Path, tmp_path: Path) -> None:
    """Shard by shard it gives what peft gives in memory."""
    export = chain("export", export={"formats": ["bf16"]})
    result = result_of(export)
    merged, adapter = tmp_path / "merged", tmp_path / "adapter"
    fetch_directory(export.store, result["merged"]["uri"], merged, result["merged"]["digest"])
    trained = export.result_of("train")
    fetch_directory(export.store, trained["adapterURI"], adapter, trained["adapterDigest"])

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, adapter).merge_and_unload().to(torch.bfloat16).state_dict()
    found = {name: tensor for shard in merged.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    assert {path.name for path in merged.glob("*.safetensors")} == {path.name for path in model.glob("*.safetensors")}
    assert set(found) == set(expected) - {"lm_head.weight"}  # tied
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    original = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert not torch.equal(
        found["model.layers.0.self_attn.q_proj.weight"], original["model.layers.0.self_attn.q_proj.weight"]
    )


def test_an_export_gives_the_same_digests_again(chain: ContextFactory, new_context: ContextFactory) -> None:
    export = chain("export")
    first = result_of(export)
    export.store.delete_prefix(export.uri("export"))
    again = new_context("export")
    assert result_of(again) == first


def test_a_stopped_training_goes_on_from_its_checkpoint(new_context: ContextFactory) -> None:
    expected = result_of(new_context("train"))

    elsewhere = {"uri": "s3://bucket/stopped"}
    stopped = new_context("train", output=elsewhere)
    stopped.stopping.set()
    outcome = run_stage(stopped)
    assert (outcome.exit_code, outcome.reason) == (75, reasons.PREEMPTED)
    assert Checkpoints(stopped).steps() == [1]

    result = result_of(new_context("train", output=elsewhere))
    assert result["adapterDigest"] == expected["adapterDigest"]
    assert result["loss"] == expected["loss"]


def test_half_written_and_damaged_checkpoints_are_passed_over(new_context: ContextFactory, tmp_path: Path) -> None:
    for _ in range(3):
        context = new_context("train", training={"checkpoints": {"keep": 3}}, output={"uri": "s3://bucket/damaged"})
        context.stopping.set()
        assert run_stage(context).exit_code == 75
    checkpoints = Checkpoints(context)
    assert checkpoints.steps() == [3, 2, 1]

    context.store.delete_prefix(f"{checkpoints.uri(3)}/manifest.json")
    assert checkpoints.steps() == [2, 1]
    context.store.write(f"{checkpoints.uri(2)}/optimizer.pt", b"damaged")
    newest = checkpoints.fetch_newest(tmp_path / "fetched")
    assert newest is not None
    assert newest.step == 1


def test_only_the_newest_checkpoints_are_kept(new_context: ContextFactory) -> None:
    often = {"everyMinutes": 1e-9, "keep": 2}
    context = new_context("train", training={"checkpoints": often}, output={"uri": "s3://bucket/often"})
    result_of(context)
    assert Checkpoints(context).steps() == [11, 10]
    left = {
        item.uri.split("/step-")[1].split("/")[0] for item in context.store.list(context.uri("train", "checkpoints"))
    }
    assert left == {"10", "11"}


def test_a_gate_that_fails_blocks_and_leaves_the_report(chain: ContextFactory) -> None:
    evaluate = chain(
        "evaluate", export={"formats": ["bf16"]}, evaluation={"gates": [{"against": "base", "maxRatio": 1e-6}]}
    )
    outcome = run_stage(evaluate)
    assert (outcome.exit_code, outcome.reason) == (65, reasons.GATE_FAILED)
    assert "perplexity of tuned" in outcome.message
    assert "onGateFailure: Warn" in outcome.advice
    assert evaluate.mark("evaluate") is None
    assert not json.loads(evaluate.store.read(evaluate.uri("evaluate", "report.json")))["passed"]


def test_gates_may_only_warn(chain: ContextFactory) -> None:
    gates = {"gates": [{"against": "base", "maxRatio": 1e-6}], "onGateFailure": "Warn"}
    result = result_of(chain("evaluate", export={"formats": ["bf16"]}, evaluation=gates))
    assert not result["passed"]


@pytest.mark.parametrize(
    ("changes", "reason", "text"),
    [
        ({"training": {"lora": {"targetModules": ["q_proj", "nonsense"]}}}, reasons.INVALID_SPEC, "nonsense"),
        ({"training": {"lora": {"targetModules": ["lm_head"]}}}, reasons.INVALID_SPEC, "lm_head"),
    ],
)
def test_what_train_refuses(new_context: ContextFactory, changes: Json, reason: str, text: str) -> None:
    outcome = run_stage(new_context("train", **changes))
    assert (outcome.exit_code, outcome.reason) == (65, reason)
    assert text in outcome.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(new_context: ContextFactory) -> None:
    outcome = run_stage(new_context("train", resources={"gpus": 1}, output={"uri": "s3://bucket/gpu"}))
    assert (outcome.exit_code, outcome.reason) == (65, reasons.GPU_NOT_VISIBLE)
    assert "runtimeClassName" in outcome.advice


def test_the_micro_batch_does_not_change_what_is_learned(new_context: ContextFactory) -> None:
    """It is a matter of memory: the loss is a mean over the tokens of the whole step."""
    losses = []
    for micro in (1, 4):
        training = {"microBatchSize": micro, "precision": "fp32", "lora": {"rank": 4}}
        losses.append(result_of(new_context("train", training=training))["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
