"""All formats of llmcompressor are made by one process, and each is compared with the merged model."""

from pathlib import Path

import pytest

from support.memorystore import MemoryStore
from tuneyard_api import reasons
from tuneyard_api.contracts.requests import QuantizeOutcome
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_api.stages import stage_digests
from tuneyard_trainer.data.columns import INPUT_IDS, LABELS
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.exporters import format_of, llmcompressor
from tuneyard_trainer.exporters.base import ExportJob
from tuneyard_trainer.model.layout import fresh
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.worker import Program

WORKER = """
import json
from pathlib import Path
from tuneyard_api.contracts.requests import ItemsDone, QuantizeOutcome, QuantizeRequest
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_trainer.exporters import fidelity
from tuneyard_trainer.runtime.worker_main import emit, worker_main

FOUND = Fidelity(kl=0.1, changed_top1=0.0, logits_error=ERROR)

def quantize(request):
    log = Path(__file__).with_name("runs")
    log.write_text(log.read_text() + "x" if log.exists() else "x")
    rows = json.loads(request.rows.read_text())
    for number, name in enumerate(request.formats):
        emit(ItemsDone(done=number, total=len(request.formats), item=name))
        (request.output / name).mkdir()
        (request.output / name / "weights").write_text(f"{name} of {request.model.name} with {len(rows)} rows")
        fidelity.check(name, FOUND, 0.1)
    return QuantizeOutcome(fidelity=dict.fromkeys(request.formats, FOUND))

worker_main(QuantizeRequest, quantize)
"""


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    """A stage whose formats are made by a small program."""
    (tmp_path / "toy_quantizer.py").write_text(WORKER.replace("ERROR", "0.15"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(llmcompressor, "WORKER", Program("toy_quantizer", QuantizeOutcome))
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/a"},
            "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
            "export": {"formats": ["int8", "bf16", "fp16"], "calibration": {"samples": 3}},
            "output": {"uri": "s3://artifacts/a"},
        }
    )
    (tmp_path / "work").mkdir()
    context = StageContext("export", "x", spec, MemoryStore(), tmp_path / "work", stage_digests(spec, {}))
    writer = ShardWriter(tmp_path / "train")
    for number in range(5):
        writer.add({INPUT_IDS: [number, 7], LABELS: [7, 7]})
    writer.finish()
    for path in (tmp_path / "train").iterdir():
        context.store.upload(path, context.uri("prepare", "train", path.name))
    return context


def export(context: StageContext, name: str) -> tuple[str, list[Fidelity], list[str]]:
    """Exports one format: the weights, the comparison, and what the progress said."""
    compared: list[Fidelity] = []
    said: list[str] = []
    output = fresh(context.work / name)
    (context.work / "shared").mkdir(exist_ok=True)
    job = ExportJob(
        context,
        name,
        context.spec.export.levels,
        merged=context.work / "bf16",
        output=output,
        shared=context.work / "shared",
        on_progress=lambda share, message: said.append(message),
        on_note=said.append,
        on_fidelity=compared.append,
    )
    format_of(name).export(job)
    return (output / "weights").read_text(), compared, said


def test_one_process_makes_all_formats(context: StageContext, tmp_path: Path) -> None:
    same = [Fidelity(kl=0.1, changed_top1=0.0, logits_error=0.15)]
    weights, compared, said = export(context, "int8")
    assert (weights, compared) == ("int8 of bf16 with 3 rows", same)
    assert said == ["quantizing to int8", "quantizing to int8", "quantizing to fp16"]
    weights, compared, _ = export(context, "fp16")
    assert (weights, compared) == ("fp16 of bf16 with 3 rows", same)
    assert (tmp_path / "runs").read_text() == "x"


def test_another_function_fails(context: StageContext, tmp_path: Path) -> None:
    (tmp_path / "toy_quantizer.py").write_text(WORKER.replace("ERROR", "0.4"))
    with pytest.raises(BadInput, match="int8 does not compute what the merged model does") as error:
        export(context, "int8")
    assert error.value.reason == reasons.QUANTIZATION_DIVERGED
