"""A backend, an artifact format, a metric and a gate are one module and one line in a registry each.

Each is added to a whole chain, from prepare to publish, whose workers are small programs without torch.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.memorystore import MemoryStore
from support.tinymodel import write_model
from tuneyard_api import registry, stages
from tuneyard_api.contracts.requests import MergeOutcome, Score, ScoreOutcome, TrainOutcome, TrainRequest
from tuneyard_api.contracts.results import EvaluateResult, ExportResult, PublishResult, TrainResult
from tuneyard_api.contracts.termination import EvaluateReport, TrainReport
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_api.names import Stage
from tuneyard_trainer.backends.base import Backend
from tuneyard_trainer.exporters import merge
from tuneyard_trainer.exporters.base import ArtifactFormat, ExportJob
from tuneyard_trainer.exporters.formats import bf16
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.stage_runner import Outcome
from tuneyard_trainer.runtime.worker import Program
from tuneyard_trainer.stages import run_stage

ROOT = "s3://bucket"

# A worker of each kind, as text: the loss of a model is the number in its file "loss".
WORKERS = {
    "toy_trainer": """
from tuneyard_api import registry
registry.BACKENDS["toy"] = registry.Backend("a toy", methods=("lora",))  # as in the stage's process
from tuneyard_api.contracts.requests import CheckpointWritten, TrainingProgress, TrainOutcome, TrainRequest
from tuneyard_trainer.runtime.errors import DoesNotFit
from tuneyard_trainer.runtime.worker_main import emit, worker_main

class ToyRequest(TrainRequest):
    momentum: float

def train(request):
    if request.training.micro_batch_size > request.training.seed:  # the seed stands for the memory
        raise DoesNotFit("OutOfMemory", "Out of memory at step 1: no room", "Buy more.")
    checkpoint = request.checkpoints / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state").write_text("1")
    emit(CheckpointWritten(step=1, path=checkpoint))
    emit(TrainingProgress(step=request.steps, steps=request.steps, loss=0.5, tokens_per_second=9.0))
    (request.output / "adapter").write_text(f"momentum {request.momentum}")
    return TrainOutcome(steps=request.steps, loss=0.5, finished=True, kept_step=request.steps)

worker_main(ToyRequest, train)
""",
    "toy_merger": """
import shutil
from tuneyard_api.contracts.requests import MergeOutcome, MergeRequest
from tuneyard_trainer.runtime.worker_main import worker_main

def merge(request):
    adapter = (request.adapter / "adapter").read_text() if request.adapter else "as it is"
    (request.output / "weights").write_text(adapter)
    (request.output / "loss").write_text("1.0")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(request.model / name, request.output / name)
    return MergeOutcome(merged=1)

worker_main(MergeRequest, merge)
""",
    "toy_scorer": """
from tuneyard_api.contracts.requests import ItemsDone, Score, ScoreOutcome, ScoreRequest
from tuneyard_trainer.runtime.worker_main import emit, worker_main

def score(request):
    scores = {}
    for subject, directory in request.models.items():
        emit(ItemsDone(done=len(scores), total=len(request.models), item=subject))
        path = directory / "loss"
        scores[subject] = Score(nll=10 * float(path.read_text() if path.exists() else 2.0), tokens=10)
    return ScoreOutcome(scores=scores)

worker_main(ScoreRequest, score)
""",
}


def module(name: str, **members: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


def toy_backend() -> ModuleType:
    class ToyRequest(TrainRequest):
        momentum: float

    def check(spec: FineTuneJobSpec) -> None:
        if spec.training.max_length > 512:
            raise BadInput("InvalidSpec", "toy trains at most 512 tokens per row", "Lower training.maxLength.")

    def native_config(request: TrainRequest) -> TrainRequest:
        return ToyRequest(**dict(request), momentum=0.9)

    backend = Backend(Program("toy_trainer", TrainOutcome), check, native_config)
    return module("backend", BACKEND=backend)


def toy_format() -> ModuleType:
    def export(job: ExportJob) -> None:
        job.on_progress(0.5, "halving")
        job.on_note("Every second byte is left out.")
        job.on_fidelity(Fidelity(kl=0.25, changed_top1=0.125, logits_error=0.5))
        weights = (job.merged / "weights").read_bytes()
        (job.output / "weights").write_bytes(weights[: len(weights) // 2])
        (job.output / "loss").write_text("1.05")

    def misfit(shape: ModelShape) -> str | None:
        odd = [width for width in shape.columns if width % 2]
        return f"half-size needs even input columns; this model has {odd[0]}" if odd else None

    return module("half_size", FORMAT=ArtifactFormat(export, Program("toy_scorer", ScoreOutcome), misfit))


def toy_metric() -> ModuleType:
    def value(score: Score) -> float:
        return score.nll / score.tokens

    return module("mean_loss", value=value)


def toy_gate() -> ModuleType:
    def limit(value: float, reference: float) -> float:
        return reference + value

    def passes(measured: float, limit: float) -> bool:
        return measured <= limit

    return module("max_increase", limit=limit, passes=passes)


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each module and its registry line; and workers without torch for the merged model."""
    for name, made in {
        "backends.toy.backend": toy_backend(),
        "exporters.formats.half_size": toy_format(),
        "metrics.mean_loss": toy_metric(),
        "gates.max_increase": toy_gate(),
    }.items():
        monkeypatch.setitem(sys.modules, f"tuneyard_trainer.{name}", made)
    monkeypatch.setitem(registry.BACKENDS, "toy", registry.Backend("a toy", methods=("lora",)))
    monkeypatch.setitem(registry.ARTIFACT_FORMATS, "half-size", registry.ArtifactFormat("a toy", engines=()))
    monkeypatch.setitem(registry.METRICS, "meanLoss", registry.Metric("a toy"))
    monkeypatch.setitem(registry.GATES, "maxIncrease", registry.GateBound("a toy"))

    (tmp_path / "programs").mkdir()
    for name, text in WORKERS.items():
        (tmp_path / "programs" / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "programs"))
    monkeypatch.setattr(merge, "WORKER", Program("toy_merger", MergeOutcome))
    monkeypatch.setattr(bf16, "FORMAT", bf16.FORMAT._replace(scorer=Program("toy_scorer", ScoreOutcome)))


class Chain:
    """One job after the other on one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        rows = [{"question": f"What is {number}?", "answer": f"{number}."} for number in range(40)]
        self.store.write(f"{ROOT}/data.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.upload_model("model")

    def upload_model(self, name: str, **config: Any) -> None:
        directory = write_model(self.folder / "models" / name, plain=True, **config)
        self.store.upload_all({f"{ROOT}/{name}/{path.name}": path for path in directory.iterdir()})

    def run(self, last: Stage, **changes: Any) -> tuple[Outcome, StageContext]:
        """Runs the stages up to `last`, or to the first that fails."""
        spec = FineTuneJobSpec.model_validate(
            {
                "model": {"uri": f"{ROOT}/model"},
                "dataset": {"train": [{"uri": f"{ROOT}/data.jsonl"}], "clean": {"minRows": 1}},
                "training": {"backend": "toy", "maxLength": 256},
                "export": {"formats": ["bf16", "half-size"]},
                "evaluation": {
                    "gates": [
                        {"metric": "meanLoss", "against": "base", "maxRatio": 0.9},
                        {"metric": "meanLoss", "against": "tuned", "maxIncrease": 0.1},
                    ]
                },
                "output": {"uri": f"{ROOT}/out"},
                "resources": {"gpus": 0},
            }
            | changes
        )
        digests: dict[Stage, str] = {}
        for stage in (definition.name for definition in stages.chain(spec)):
            work = self.folder / f"{stage}-{len(list(self.folder.iterdir()))}"
            work.mkdir()
            context = StageContext(stage, "toy", spec, self.store, work, digests)
            outcome = run_stage(context)
            digests = context.digests
            if stage == last or not outcome.succeeded:
                break
        return outcome, context


@pytest.fixture
def chain(registered: None, tmp_path: Path) -> Chain:
    folder = tmp_path / "chain"
    folder.mkdir()
    return Chain(folder)


def test_whole_chain(chain: Chain) -> None:
    outcome, context = chain.run("publish")
    assert isinstance(outcome.result, PublishResult), outcome
    assert [item.format for item in outcome.result.artifacts] == ["bf16", "half-size"]
    assert outcome.result.recommended.format == "half-size"
    card = chain.store.read(context.uri("publish", "README.md")).decode()
    assert "| half-size | meanLoss | 1.05 |" in card
    assert "half-size: Every second byte is left out." in card
    assert "| half-size | 0.25 | 12.5 % | 0.5 |" in card


def test_backend(chain: Chain) -> None:
    outcome, context = chain.run("train")
    assert outcome.succeeded, outcome
    result = context.result_of(TrainResult)
    assert result.training.loss == 0.5
    assert result.adapter
    assert chain.store.read(f"{result.adapter.uri}/adapter") == b"momentum 0.9"
    assert chain.store.exists(context.uri("train", "checkpoints", "step-1", "manifest.json"))


def test_a_backend_climbs_the_ladder(chain: Chain) -> None:
    outcome, context = chain.run("train", training={"backend": "toy", "maxLength": 256, "seed": 2})
    assert outcome.succeeded, outcome
    changes = [rung.change for rung in context.result_of(TrainResult).training.rungs]
    assert changes == [f"microBatchSize {size}, {16 // size} of them accumulated in a step" for size in (4, 2)]
    (known,) = [uri for uri in chain.store.objects if uri.startswith(f"{ROOT}/out/memory/")]
    assert json.loads(chain.store.read(known)) == {"rung": 2}


def test_a_backend_at_the_top_of_the_ladder(chain: Chain) -> None:
    outcome, _ = chain.run("train", training={"backend": "toy", "maxLength": 256, "seed": 0})
    assert (outcome.exit_code, outcome.reason) == (78, "OutOfMemory")
    assert outcome.message.endswith("microBatchSize 1, 16 of them accumulated in a step; gradientCheckpointing.")
    assert isinstance(outcome.report, TrainReport)
    assert len(outcome.report.training.rungs) == 4


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"maxLength": 1024}, "at most 512 tokens"),
        ({"maxLength": 256, "method": "qlora"}, "toy has no method qlora"),
    ],
)
def test_prepare_asks_the_backend(chain: Chain, training: dict[str, object], message: str) -> None:
    outcome, context = chain.run("train", training={"backend": "toy", **training})
    assert (context.stage, outcome.exit_code) == ("prepare", 65)
    assert message in outcome.message


def test_prepare_asks_the_format(chain: Chain) -> None:
    chain.upload_model("odd", intermediate_size=101)
    outcome, context = chain.run("train", model={"uri": f"{ROOT}/odd"})
    assert (context.stage, outcome.reason) == ("prepare", "FormatDoesNotFit")
    assert "this model has 101" in outcome.message


@pytest.mark.parametrize("formats", [["half-size"], ["bf16"], ["half-size", "bf16"]])
def test_export_lists_the_wanted_formats(chain: Chain, formats: list[str]) -> None:
    outcome, context = chain.run("export", export={"formats": formats})
    assert outcome.succeeded, outcome
    result = context.result_of(ExportResult)
    assert [item.format for item in result.artifacts] == formats
    assert result.merged.format == "bf16"
    for artifact in [result.merged, *result.artifacts]:
        assert chain.store.exists(f"{artifact.uri}/manifest.json")
    assert context.progress.report().percent == 100


def test_metric_and_gate(chain: Chain) -> None:
    outcome, context = chain.run("evaluate")
    assert outcome.succeeded, outcome
    result = context.result_of(EvaluateResult)
    measured = {(item.metric, item.subject): item.value for item in result.measurements}
    assert measured["meanLoss", "base"] == 2.0
    assert measured["meanLoss", "half-size"] == 1.05
    assert measured["perplexity", "tuned"] == 2.7183
    assert [(gate.subject, gate.limit, gate.passed) for gate in result.gates] == [
        ("tuned", 1.8, True),
        ("half-size", 1.1, True),
    ]
    page = chain.store.read(context.uri("evaluate", "report.html")).decode()
    assert "<h2>meanLoss</h2>" in page


def test_new_gate_can_fail(chain: Chain) -> None:
    gates = [{"metric": "meanLoss", "against": "tuned", "maxIncrease": 0.01}]
    outcome, context = chain.run("publish", export={"formats": ["half-size"]}, evaluation={"gates": gates})
    assert (context.stage, outcome.reason) == ("evaluate", "GateFailed")
    assert "meanLoss of half-size is 1.05, the gate against tuned allows 1.01" in outcome.message
    assert isinstance(outcome.report, EvaluateReport)
    assert outcome.report.gates_failed == 1


AS_IT_IS: dict[str, Any] = {
    "training": {"method": "none", "maxLength": 256},
    "evaluation": {"gates": [{"metric": "meanLoss", "against": "base", "maxRatio": 1.04}]},
}
CALIBRATED: dict[str, Any] = {
    "dataset": {},
    "export": {"formats": ["bf16", "half-size"], "calibration": {"uri": f"{ROOT}/data.jsonl"}},
}


@pytest.mark.parametrize("rows", [{}, CALIBRATED], ids=["training rows", "calibration rows"])
def test_without_training(chain: Chain, rows: dict[str, Any]) -> None:
    """The base model is measured as the merged model is; the artifact whose gate fails is not recommended."""
    outcome, context = chain.run("publish", **AS_IT_IS | rows)
    assert isinstance(outcome.result, PublishResult), outcome
    assert "train" not in context.digests
    evaluated = context.result_of(EvaluateResult)
    assert {item.subject for item in evaluated.measurements} == {"base", "half-size"}
    assert [(gate.subject, gate.passed) for gate in evaluated.gates] == [("half-size", False)]
    assert outcome.result.recommended.format == "bf16"
    exported = context.result_of(ExportResult)
    assert chain.store.read(f"{exported.merged.uri}/weights") == b"as it is"
    assert outcome.result.dataset.rows_kept == 40
    card = chain.store.read(context.uri("publish", "README.md")).decode()
    assert f"Base model: `{ROOT}/model`, not tuned." in card
    assert f"- `{ROOT}/data.jsonl`" in card


def test_without_rows_nothing_is_measured(chain: Chain) -> None:
    outcome, context = chain.run("publish", dataset={}, training={"method": "none"}, evaluation={})
    assert isinstance(outcome.result, PublishResult), outcome
    assert list(context.digests) == ["prepare", "export", "publish"]
    assert outcome.result.recommended.format == "bf16"
    assert "nothing was measured" in outcome.result.recommended.reason
    assert outcome.report and "evaluation" not in outcome.report.wire()


@pytest.mark.parametrize(("limit", "chosen"), [(1.2, "half-size"), (1.01, "bf16")])
def test_ladder(chain: Chain, monkeypatch: pytest.MonkeyPatch, limit: float, chosen: str) -> None:
    monkeypatch.setitem(registry.LADDERS, "auto", registry.Ladder("a toy", rungs=("half-size", "bf16")))
    gates = [{"metric": "meanLoss", "against": "tuned", "maxRatio": limit}]
    outcome, _ = chain.run("publish", export={"formats": ["auto"]}, evaluation={"gates": gates})
    assert isinstance(outcome.result, PublishResult), outcome
    assert [item.format for item in outcome.result.artifacts] == ["half-size", "bf16"]
    recommended = outcome.result.recommended
    assert recommended.format == chosen
    assert recommended.reason.startswith("auto: the first of half-size, bf16 whose gates passed")
    failed = "meanLoss of half-size is 1.05, the gate against tuned allows 1.01"
    assert (failed in recommended.reason) == (chosen == "bf16")
