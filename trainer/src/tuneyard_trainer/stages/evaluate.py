"""The evaluate stage: scores base, tuned and every quantized artifact on held-out rows, and applies the gates."""

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import ItemsDone, Score, ScoreOutcome, ScoreRequest
from tuneyard_api.contracts.results import (
    REPORT_FILES,
    EvaluateResult,
    ExportResult,
    Level,
    PrepareResult,
    TrainResult,
)
from tuneyard_api.contracts.speed import Speed
from tuneyard_api.contracts.termination import EvaluateReport
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.registry import BASE, format_measured, subject_of
from tuneyard_store.artifact import fetch_directory
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.data.split import GENERAL, VALIDATION, Split
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.exporters import format_of
from tuneyard_trainer.gates import DECIMALS, judge
from tuneyard_trainer.metrics import measure, perplexity
from tuneyard_trainer.metrics.answers import asked_rows, question_and_answer
from tuneyard_trainer.metrics.tally import Row
from tuneyard_trainer.model.layout import download_model
from tuneyard_trainer.reports.evaluation import ComparedAnswers, EvaluationDocument, render_html
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.stage_runner import StageProgram
from tuneyard_trainer.runtime.worker import Program, ProgressEvent, run_worker

LOGITS_DIR: Final = "logits"
# Of the reference, in float32 on disk: 1.2 GB for a vocabulary of 150,000 tokens.
COMPARED_TOKENS: Final = 2048


def run(context: StageContext) -> EvaluateResult:
    """Measures, judges and reports.

    Raises:
        BadInput: a gate failed and spec.evaluation.onGateFailure is Block; the report is in the store nevertheless.
        TryAgain: the pod was stopped.
        ArtifactCorrupt: an artifact differs from its manifest.
    """
    context.progress.update(percent=0, message="fetching the models")
    models = fetch_models(context)
    rows = held_out_rows(context, VALIDATION)
    general = held_out_rows(context, GENERAL) if context.spec.dataset.replay else []
    scores = score(context, models, rows, general)
    shutil.rmtree(context.work / LOGITS_DIR, ignore_errors=True)
    measurements = measure(scores)
    formats = [artifact.format for artifact in context.result_of(ExportResult).artifacts]
    verdict = judge(context.spec.gates, measurements, formats)
    result = EvaluateResult(
        measurements=[item.model_copy(update={"value": round(item.value, DECIMALS)}) for item in measurements],
        levels=levels(scores, models),
        gates=verdict.gates,
        passed=verdict.passed,
        rows=len(rows),
        tokens=scores[BASE].tokens,
    )
    tokenizer = ModelTokenizer(models[context.spec.merged_subject], context.spec.model.uri)
    report_uri = write_report(context, result, compared_answers(rows, scores, tokenizer))
    for item in result.measurements:
        context.log.info("%s of %-6s %.4f", item.metric, item.subject, item.value)
    if verdict.failure and context.spec.evaluation.on_gate_failure == "Block":
        raise BadInput(
            reasons.GATE_FAILED,
            f"Nothing is published: {verdict.failure}. Report: {report_uri}",
            advice(context.spec),
            EvaluateReport.of(result),
        )
    return result


def advice(spec: FineTuneJobSpec) -> str:
    """What to do where a gate failed."""
    first = "Train longer or on more data, change training.learningRate or training.lora.rank"
    if not spec.trains:
        first = "Add formats with more bits to export.formats"
    return f"{first}; or change evaluation.gates, or set evaluation.onGateFailure: Warn."


def fetch_models(context: StageContext) -> dict[str, Path]:
    """Downloads and verifies the models to measure: base, tuned (the merged model) and each quantized format.

    Where nothing is tuned, the merged model is the base model.
    """
    exported, merged = context.result_of(ExportResult), context.spec.merged_subject
    artifacts = {merged: exported.merged} | {subject_of(item.format, merged): item for item in exported.artifacts}
    models: dict[str, Path] = {}
    if merged != BASE:
        models[BASE] = download_model(context.store, context.spec.model.uri, context.work / "models" / BASE)
    for name, artifact in artifacts.items():
        models[name] = context.work / "models" / name
        fetch_directory(context.store, artifact.uri, models[name], artifact.digest)
    return models


def held_out_rows(context: StageContext, split: Split) -> list[Row]:
    """At most maxRows of the rows of a split: a sample that is the same for the same seed."""
    rows = read_rows(fetch_rows(context, split))
    wanted = min(len(rows), context.spec.evaluation.max_rows)
    chosen = random.Random(f"held-out/{context.spec.training.seed}").sample(range(len(rows)), wanted)  # noqa: S311
    return [(rows[index][INPUT_IDS], rows[index][LABELS]) for index in sorted(chosen)]


def score(
    context: StageContext, models: dict[str, Path], rows: Sequence[Row], general: Sequence[Row]
) -> dict[str, Score]:
    """What the scorer of its format measures of each model; first that of the reference, whose logits it writes.

    Args:
        rows: the job's own held-out rows.
        general: rows on which forgetting shows, if there are any.
    """
    asked = ScoreRequest(
        models={},
        rows=write_rows(context, VALIDATION, rows),
        general=write_rows(context, GENERAL, general) if general else None,
        end_tokens=context.result_of(PrepareResult).end_of_turn,
        reference=context.spec.merged_subject,
        compared=compared_rows(rows, context.spec.training.seed),
        logits=context.work / LOGITS_DIR,
        prompts=[question_and_answer(rows[number])[0] for number in asked_rows(rows)],
    )
    by_scorer: dict[Program[ScoreOutcome], dict[str, Path]] = defaultdict(dict)
    for subject, directory in models.items():
        by_scorer[format_of(format_measured(subject)).scorer][subject] = directory
    scores: dict[str, Score] = {}

    def on_event(event: ProgressEvent) -> None:
        if isinstance(event, ItemsDone):
            percent = 100 * (len(scores) + event.done) // len(models)
            context.progress.update(percent=percent, message=f"scoring {event.item}")
            context.log.info("scoring %s", event.item)

    for scorer in sorted(by_scorer, key=lambda scorer: asked.reference not in by_scorer[scorer]):
        request = asked.model_copy(update={"models": by_scorer[scorer]})
        scores |= run_worker(context, scorer, request, on_event=on_event).scores
    return {subject: scores[subject] for subject in models}


def write_rows(context: StageContext, split: Split, rows: Sequence[Row]) -> Path:
    """Writes rows for the scorers."""
    path = context.work / f"held-out-{split}.json"
    path.write_text(json.dumps(rows))
    return path


def compared_rows(rows: Sequence[Row], seed: int) -> list[int]:
    """The numbers of a sample of rows with COMPARED_TOKENS answer tokens in all, the same for the same seed."""
    chosen: list[int] = []
    tokens = 0
    for number in random.Random(f"compared/{seed}").sample(range(len(rows)), len(rows)):  # noqa: S311
        if tokens >= COMPARED_TOKENS:
            break
        chosen.append(number)
        tokens += sum(label != IGNORED for label in rows[number][1][1:])
    return chosen


def levels(scores: Mapping[str, Score], models: Mapping[str, Path]) -> list[Level]:
    """The table of levels: a row for each model."""
    return [
        Level(
            subject=subject,
            size_bytes=sum(path.stat().st_size for path in models[subject].rglob("*") if path.is_file()),
            memory_bytes=score.memory_bytes,
            **{name: rounded(getattr(score, name)) for name in Speed.model_fields},
            engine=score.engine,
            perplexity=round(perplexity.value(score), DECIMALS),
            kl=rounded(score.kl),
            changed_top1=rounded(score.changed_top1),
            end_probability=rounded(score.end_probability),
        )
        for subject, score in scores.items()
    ]


def rounded(value: float | None) -> float | None:
    """Four significant digits."""
    return None if value is None else float(f"{value:.4g}")


def compared_answers(
    rows: Sequence[Row], scores: Mapping[str, Score], tokenizer: ModelTokenizer
) -> list[ComparedAnswers]:
    """What each model answers to some held-out questions, as text; of the models whose scorer asks them."""
    answers = {subject: score.answers for subject, score in scores.items() if score.answers}
    found = []
    for place, number in enumerate(asked_rows(rows) if answers else []):
        question, wanted = question_and_answer(rows[number])
        found.append(
            ComparedAnswers(
                question=tokenizer.decode(question).strip(),
                wanted=tokenizer.decode(wanted).strip(),
                answers={subject: tokenizer.decode(said[place]).strip() for subject, said in answers.items()},
            )
        )
    return found


def write_report(context: StageContext, result: EvaluateResult, answers: Sequence[ComparedAnswers]) -> str:
    """Uploads report.json and report.html; returns the URI of the latter."""
    uri = context.uri("evaluate", REPORT_FILES["evaluate"])
    trained = context.find_result(TrainResult) if "train" in context.digests else None
    document = EvaluationDocument.of(
        context.name,
        context.digests["evaluate"],
        result,
        context.result_of(ExportResult).artifacts,
        trained.training if trained else None,
        answers,
    )
    text = json.dumps(document.wire(), indent=2).encode()
    context.store.write(context.uri("evaluate", "report.json"), text, "application/json")
    context.store.write(uri, render_html(document).encode(), "text/html; charset=utf-8")
    return uri


PROGRAM: Final = StageProgram(run)
