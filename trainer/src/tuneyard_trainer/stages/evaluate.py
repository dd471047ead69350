"""The evaluate stage: held-out perplexity of base, tuned and every quantized artifact, the gates, and a report."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_store.artifact import fetch_directory
from tuneyard_trainer.data.columns import INPUT_IDS, LABELS, TokenizedRow
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.gates import BASE, TUNED, Verdict, judge, perplexity
from tuneyard_trainer.model.layout import download_model
from tuneyard_trainer.reports.evaluation import render_html
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.stage_runner import StageContext
from tuneyard_trainer.runtime.worker import Json, Program, run_worker
from tuneyard_trainer.stages.train import fetch_rows

SCORE: Final = Program("tuneyard_trainer.metrics.perplexity", "TUNEYARD_QUANTIZER_PYTHON")


def run(context: StageContext) -> dict[str, Any]:
    """Measures, judges and reports.

    Raises:
        BadInput: a gate failed and spec.evaluation.onGateFailure is Block; the report is in the store all the same.
        TryAgain: the pod was stopped.
        ArtifactCorrupt: an artifact is not what export wrote.
    """
    context.progress.update(percent=0, message="fetching the models")
    models = fetch_models(context)
    rows = held_out_rows(read_rows(fetch_rows(context, "validation")), context)

    def on_event(event: Json) -> None:
        context.progress.update(percent=100 * event["number"] // event["models"], message=f"scoring {event['subject']}")
        context.log.info("scoring %s", event["subject"])

    row_file = context.work / "held-out.json"
    row_file.write_text(json.dumps(rows))
    job: Json = {"models": {name: str(path) for name, path in models.items()}, "rows": str(row_file)}
    losses = run_worker(context, SCORE, job, on_event=on_event)
    measured = {name: perplexity(loss["nll"], loss["tokens"]) for name, loss in losses.items()}
    verdict = judge(context.spec.evaluation.gates, measured, context.spec.export.formats)
    result = summed_up(measured, verdict) | {"rows": len(rows), "tokens": losses[BASE]["tokens"]}
    result |= {"reportURI": write_report(context, result)}
    for name, value in measured.items():
        context.log.info("perplexity of %-6s %.4f", name, value)
    if verdict.failure and context.spec.evaluation.on_gate_failure == "Block":
        raise BadInput(
            reasons.GATE_FAILED,
            f"Nothing is published: {verdict.failure}. Report: {result['reportURI']}",
            "Train longer or on more data, change training.learningRate or training.lora.rank; "
            "or change evaluation.gates, or set evaluation.onGateFailure: Warn.",
            result,
        )
    return result


def fetch_models(context: StageContext) -> dict[str, Path]:
    """Downloads what is measured, verified: base, tuned (the merged model) and each quantized format."""
    exported = context.result_of("export")
    artifacts = {TUNED: exported["merged"]}
    artifacts |= {item["format"]: item for item in exported["artifacts"] if item["format"] != "bf16"}
    models = {BASE: download_model(context.store, context.spec.model.uri, context.work / "models" / BASE)}
    for name, item in artifacts.items():
        models[name] = context.work / "models" / name
        fetch_directory(context.store, item["uri"], models[name], item["digest"])
    return models


def held_out_rows(rows: Sequence[TokenizedRow], context: StageContext) -> list[tuple[list[int], list[int]]]:
    """At most maxRows of the validation rows: a sample that is the same for the same seed."""
    wanted = min(len(rows), context.spec.evaluation.max_rows)
    chosen = random.Random(f"held-out/{context.spec.training.seed}").sample(range(len(rows)), wanted)  # noqa: S311
    return [(rows[index][INPUT_IDS], rows[index][LABELS]) for index in sorted(chosen)]


def summed_up(measured: dict[str, float], verdict: Verdict) -> Json:
    return {
        "perplexity": {name: round(value, 4) for name, value in measured.items()},
        "gates": [gate.wire() for gate in verdict.gates],
        "passed": verdict.passed,
    }


def write_report(context: StageContext, result: Json) -> str:
    """Uploads report.json and report.html; returns the latter's uri."""
    document = {"name": context.name, "digest": context.digests["evaluate"]} | result
    uri = context.uri("evaluate", "report.html")
    context.store.write(
        context.uri("evaluate", "report.json"), json.dumps(document, indent=2).encode(), "application/json"
    )
    context.store.write(uri, render_html(document).encode(), "text/html; charset=utf-8")
    return uri
