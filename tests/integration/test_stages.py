"""The stages train, export and evaluate as pods run them, with a real store, real workers and a tiny model."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from integration.conftest import END_OF_TURN, ContextFactory, commit_prepare, job_spec
from support.tinymodel import TEMPLATE
from tuneyard_api import reasons
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.results import EvaluateResult, ExportResult, TrainResult
from tuneyard_api.kinds.dataset import Dataset
from tuneyard_api.kinds.finetunejob import Output
from tuneyard_api.stages import stage_digests
from tuneyard_store.artifact import fetch_directory, read_manifest
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.runtime.checkpoints import Checkpoints
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage

Result = TypeVar("Result", bound=Contract)


def run(context: StageContext, result: type[Result]) -> Result:
    """Runs a stage, asserts that it succeeds, and returns its result."""
    outcome = run_stage(context)
    assert outcome.succeeded, outcome
    assert isinstance(outcome.result, result)
    return outcome.result


def train(context: StageContext) -> TrainResult:
    return run(context, TrainResult)


def export(context: StageContext) -> ExportResult:
    return run(context, ExportResult)


def evaluate(context: StageContext) -> EvaluateResult:
    return run(context, EvaluateResult)


@pytest.fixture
def chain(new_context: ContextFactory) -> ContextFactory:
    """A function that runs the stages before `last` and returns the context of `last`."""

    def make(last: str, **changes: Any) -> StageContext:
        for stage in ("train", "export"):
            if stage == last:
                break
            assert run_stage(new_context(stage, **changes)).succeeded
        return new_context(last, **changes)

    return make


@pytest.mark.parametrize(("method", "formats"), [("lora", ["bf16", "int8", "gptq"]), ("qlora", ["bf16"])])
def test_the_chain(chain: ContextFactory, tmp_path: Path, method: str, formats: list[str]) -> None:
    context = chain("evaluate", training={"method": method}, export={"formats": formats})
    store = context.store
    trained, exported = context.result_of(TrainResult), context.result_of(ExportResult)
    assert trained.training.steps == 12
    assert trained.training.loss is not None
    assert trained.training.loss < math.log(320)  # the loss of a uniform guess

    adapter = tmp_path / "adapter"
    assert trained.adapter
    manifest = fetch_directory(store, trained.adapter.uri, adapter, trained.adapter.digest)
    assert {file.path for file in manifest.files} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "s3://bucket/model"

    assert [item.format for item in exported.artifacts] == formats
    manifest_of = {item.format: read_manifest(store, item.uri) for item in exported.artifacts}
    for item in exported.artifacts:
        manifest = manifest_of[item.format]
        assert (manifest.digest, manifest.size_bytes) == (item.digest, item.size_bytes)
        assert b"/tmp" not in store.read(f"{item.uri}/config.json")
        # The base model stops at 1; the trained end of a turn is another token.
        assert json.loads(store.read(f"{item.uri}/generation_config.json"))["eos_token_id"] == [1, END_OF_TURN]
        assert store.read(f"{item.uri}/chat_template.jinja").decode() == TEMPLATE

    result = evaluate(context)
    perplexity = {item.subject: item.value for item in result.measurements}
    assert set(perplexity) == {"base", "tuned", *formats} - {"bf16"}
    assert perplexity["tuned"] < 0.9 * perplexity["base"]
    assert {gate.subject for gate in result.gates} == {"tuned", *formats} - {"bf16"}
    levels = {level.subject: level for level in result.levels}
    assert set(levels) == set(perplexity)
    assert levels["tuned"].kl is None, "it is what the others are compared with"
    assert all(level.engine.startswith("transformers ") and level.tokens_per_second for level in result.levels)
    weights = sum(file.size_bytes for file in manifest_of["bf16"].files if file.path.endswith(".safetensors"))
    assert levels["tuned"].memory_bytes == levels["base"].memory_bytes == pytest.approx(weights, rel=0.05), "16 bits"
    for name in set(formats) - {"bf16"}:
        assert levels[name].perplexity == perplexity[name]
        assert 0 < (levels[name].kl or 0) < (levels["base"].kl or 0), "quantizing changes less than tuning"
        assert levels[name].size_bytes == next(item.size_bytes for item in exported.artifacts if item.format == name)
    report = json.loads(store.read(context.uri("evaluate", "report.json")))
    assert report["measurements"] == [item.wire() for item in result.measurements]
    page = store.read(context.uri("evaluate", "report.html")).decode()
    assert "<h2>Training</h2>" in page
    assert [item["format"] for item in report["artifacts"]] == formats
    assert len(report["answers"]) == 4
    for item in report["answers"]:
        assert set(item["answers"]) == set(perplexity)
        assert item["question"]
        assert item["wanted"]
    assert any(item["answers"]["tuned"] != item["answers"]["base"] for item in report["answers"])


def test_without_training(new_context: ContextFactory, tmp_path: Path, model: Path) -> None:
    """The base model's weights are published as they are, and measured as base."""
    changes: dict[str, Any] = {"training": {"method": "none"}, "export": {"formats": ["bf16", "int8"]}}
    context = new_context("export", **changes)
    exported = export(context)
    merged = tmp_path / "merged"
    fetch_directory(context.store, exported.merged.uri, merged)
    expected = AutoModelForCausalLM.from_pretrained(model).state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(merged).state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    result = evaluate(new_context("evaluate", **changes))
    assert {item.subject for item in result.measurements} == {"base", "int8"}
    assert {(gate.subject, gate.against, gate.passed) for gate in result.gates} == {("int8", "base", True)}


def test_the_merged_model_is_base_plus_adapter(chain: ContextFactory, model: Path, tmp_path: Path) -> None:
    """The merge by shard gives the same weights as the merge in memory by peft."""
    context = chain("export", export={"formats": ["bf16"]})
    result = export(context)
    merged, adapter = tmp_path / "merged", tmp_path / "adapter"
    fetch_directory(context.store, result.merged.uri, merged, result.merged.digest)
    trained = context.result_of(TrainResult)
    assert trained.adapter
    fetch_directory(context.store, trained.adapter.uri, adapter, trained.adapter.digest)

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, adapter).merge_and_unload().to(torch.bfloat16).state_dict()
    found = {name: tensor for shard in merged.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    assert {path.name for path in merged.glob("*.safetensors")} == {path.name for path in model.glob("*.safetensors")}
    assert set(found) == set(expected) - {"lm_head.weight"}  # tied to the embeddings
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    original = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert not torch.equal(
        found["model.layers.0.self_attn.q_proj.weight"], original["model.layers.0.self_attn.q_proj.weight"]
    )


def test_a_full_tuning_is_exported_without_a_merge(chain: ContextFactory, tmp_path: Path) -> None:
    training = {"method": "full", "learningRate": 1e-3, "lora": {"rank": 16, "alpha": 32, "dropout": 0.0}}
    context = chain("evaluate", training=training, export={"formats": ["bf16", "int8"]})
    trained, exported = context.result_of(TrainResult), context.result_of(ExportResult)
    assert trained.adapter is None
    assert trained.model is not None
    weights: list[dict[str, torch.Tensor]] = []
    for name, part in (("trained", trained.model), ("merged", exported.merged)):
        fetch_directory(context.store, part.uri, tmp_path / name, part.digest)
        weights.append(
            {key: value for path in (tmp_path / name).glob("*.safetensors") for key, value in load_file(path).items()}
        )
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"] == [1, END_OF_TURN]
    perplexity = {item.subject: item.value for item in evaluate(context).measurements}
    assert perplexity["tuned"] < 0.9 * perplexity["base"]


def test_export_is_reproducible(chain: ContextFactory, new_context: ContextFactory) -> None:
    context = chain("export")
    first = export(context)
    context.store.delete_prefix(context.uri("export"))
    assert export(new_context("export")) == first


def test_a_stopped_training_resumes(new_context: ContextFactory) -> None:
    expected = train(new_context("train"))

    elsewhere = {"uri": "s3://bucket/stopped"}
    stopped = new_context("train", output=elsewhere)
    stopped.stopping.set()
    outcome = run_stage(stopped)
    assert (outcome.exit_code, outcome.reason) == (75, reasons.PREEMPTED)
    assert Checkpoints(stopped).steps() == [1]

    result = train(new_context("train", output=elsewhere))
    assert result.training.loss == expected.training.loss
    assert result.adapter is not None
    assert expected.adapter is not None
    assert result.adapter.digest == expected.adapter.digest


def test_damaged_checkpoints_are_skipped(new_context: ContextFactory, tmp_path: Path) -> None:
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
    train(context)
    assert Checkpoints(context).steps() == [11, 10]
    left = {
        item.uri.split("/step-")[1].split("/")[0]
        for item in context.store.list(context.uri("train", "checkpoints"))
        if "/step-" in item.uri  # beside them lies the rung of the memory ladder
    }
    assert left == {"10", "11"}


def test_a_failed_gate_blocks(chain: ContextFactory) -> None:
    context = chain(
        "evaluate", export={"formats": ["bf16"]}, evaluation={"gates": [{"against": "base", "maxRatio": 1e-6}]}
    )
    outcome = run_stage(context)
    assert (outcome.exit_code, outcome.reason) == (65, reasons.GATE_FAILED)
    assert "perplexity of tuned" in outcome.message
    assert "onGateFailure: Warn" in outcome.advice
    assert context.find_result(EvaluateResult) is None
    assert not json.loads(context.store.read(context.uri("evaluate", "report.json")))["passed"]


def test_a_failed_gate_only_warns(chain: ContextFactory) -> None:
    gates = {"gates": [{"against": "base", "maxRatio": 1e-6}], "onGateFailure": "Warn"}
    assert not evaluate(chain("evaluate", export={"formats": ["bf16"]}, evaluation=gates)).passed


@pytest.mark.parametrize(
    ("changes", "reason", "text"),
    [
        ({"training": {"lora": {"targetModules": ["q_proj", "nonsense"]}}}, reasons.INVALID_SPEC, "nonsense"),
        ({"training": {"lora": {"targetModules": ["lm_head"]}}}, reasons.INVALID_SPEC, "lm_head"),
    ],
)
def test_train_rejects(new_context: ContextFactory, changes: dict[str, Any], reason: str, text: str) -> None:
    outcome = run_stage(new_context("train", **changes))
    assert (outcome.exit_code, outcome.reason) == (65, reason)
    assert text in outcome.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu(new_context: ContextFactory) -> None:
    outcome = run_stage(new_context("train", resources={"gpus": 1}, output={"uri": "s3://bucket/gpu"}))
    assert (outcome.exit_code, outcome.reason) == (65, reasons.GPU_NOT_VISIBLE)
    assert "runtimeClassName" in outcome.advice


def test_the_micro_batch_does_not_change_the_loss(new_context: ContextFactory) -> None:
    """The micro batch only affects memory, because the loss is a mean over the tokens of the whole step."""
    losses = []
    for micro in (1, 4):
        training = {"microBatchSize": micro, "precision": "fp32", "lora": {"rank": 4}}
        losses.append(train(new_context("train", training=training)).training.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_without_any_rows(store: S3Store, model: Path, tmp_path: Path) -> None:
    """fp8 and fp16 are made without rows, and compared with the model on the first tokens of its vocabulary."""
    spec = job_spec(training={"method": "none"}, export={"formats": ["fp8", "gguf-q8_0"]})
    spec = spec.model_copy(update={"dataset": Dataset(), "output": Output(uri="s3://bucket/rowless")})
    ShardWriter(tmp_path / "rows" / "train").finish()
    context = StageContext("export", "tiny", spec, store, tmp_path / "work", stage_digests(spec, {}), threads=2)
    context.work.mkdir()
    commit_prepare(replace(context, stage="prepare"), tmp_path / "rows", model)
    for artifact in export(context).artifacts:
        assert artifact.fidelity is not None
        assert artifact.fidelity.logits_error > 0
