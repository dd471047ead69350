"""The prepare stage: checks what the other stages will need, computes their digests, and turns the data into tokens."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from tuneyard_api import reasons
from tuneyard_api.contracts.results import ArtifactRef, DatasetSummary, PrepareResult
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.training import FULL
from tuneyard_api.names import Stage
from tuneyard_api.stages import stage_digests
from tuneyard_store.artifact import describe_directory, publish_directory
from tuneyard_store.errors import AccessDenied
from tuneyard_store.store import Store
from tuneyard_trainer.backends import check_training
from tuneyard_trainer.backends.microbatch import with_micro_batch_size
from tuneyard_trainer.backends.schedule import micro_batch_size, total_steps
from tuneyard_trainer.data.bad_rows import BadRows
from tuneyard_trainer.data.clean_blocks import CleanBlocks
from tuneyard_trainer.data.cleaning import REPEAT_STEPS, SET_STEPS, SPLIT_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_set_steps, apply_steps
from tuneyard_trainer.data.columns import length
from tuneyard_trainer.data.dataset import Files, clean_dataset, fetch_dataset, fetched_dataset, write_splits
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Key
from tuneyard_trainer.data.replay import Replayed, held_out_count, replayed, wanted_tokens
from tuneyard_trainer.data.secrets import redaction
from tuneyard_trainer.data.source import Reading
from tuneyard_trainer.data.split import GENERAL, TRAIN, VALIDATION, Split, held_out
from tuneyard_trainer.data.spool import Spooled, SpooledLine, WrittenRow, spool
from tuneyard_trainer.data.template import TEMPLATE_FILE, ChatTemplate, require_template
from tuneyard_trainer.data.tokenize import ExampleTokenizer, TokenizedExample
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer, write_served_tokenizer
from tuneyard_trainer.data.tokenize.vocabulary import check_vocabulary
from tuneyard_trainer.data.tokenize_blocks import TokenizeBlocks, TokenizedBlock, tokenize_lines
from tuneyard_trainer.exporters import check_formats
from tuneyard_trainer.model.adaptable import check_target_modules
from tuneyard_trainer.model.check import check_model
from tuneyard_trainer.model.checks.vocabulary import embedding_rows
from tuneyard_trainer.model.fit import estimate_fit
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.reports.answers import answers_status, require_answers
from tuneyard_trainer.reports.data import DataReport
from tuneyard_trainer.reports.data_page import write_report
from tuneyard_trainer.reports.reading import reading_document
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, preempted, sentence
from tuneyard_trainer.runtime.processes import Workers, process_count, start_server
from tuneyard_trainer.runtime.stage_runner import StageProgram

MODEL_DIR: Final = "model"
DATA_DIR: Final = "data"
TOKENIZER_DIR: Final = "tokenizer"
SPOOL_FILE: Final = "clean"
DROPPED_FILE: Final = "dropped.jsonl"
EMBEDDING_FILE: Final = "embedding.json"
PROGRESS_ROWS: Final = 500


def identify(context: StageContext) -> dict[Stage, str]:
    """Checks output, model and template, downloads the data and computes all digests. The cheap checks come first.

    Raises:
        BadInput: what is wrong, where, and what to do.
    """
    spec, directory = context.spec, context.work / MODEL_DIR
    if spec.trains:
        check_training(spec)
    check_output(context.store, spec.output.uri)
    base = check_model(context.store, spec.model.uri, directory, spec.training)
    if spec.trains and spec.training.method != FULL:
        check_target_modules(spec.training.lora, base.shape, spec.model.uri)
        check_fit(context, base.shape)
    check_formats(spec.export, base.shape, spec.model.uri)
    template = require_template(directory, spec.model.chat_template, spec.model.uri)
    write_served_tokenizer(context, directory, context.work / TOKENIZER_DIR)
    context.progress.update(percent=5, message="fetching the data")
    data = fetch_dataset(context.store, spec.rows, context.work / DATA_DIR)
    (context.work / TOKENIZER_DIR / TEMPLATE_FILE).write_text(template)
    (context.work / EMBEDDING_FILE).write_text(json.dumps(embedding_rows(base)))
    model = [[name, item.size, item.etag] for name, item in base.files.items()]
    hashes = {name: [[file.uri, file.sha256] for file in found] for name, found in data.items()}
    return stage_digests(spec, {"model": model, "data": hashes})


def check_fit(context: StageContext, shape: ModelShape) -> None:
    """Leaves the estimate of the memory that the training needs in the context.

    Raises:
        DoesNotFit: it needs more than there is, and spec.fit.policy is Enforce.
    """
    spec = with_micro_batch_size(context.spec, shape)
    fit = context.fit = estimate_fit(spec, shape, micro_batch_size(spec.training, spec.resources.devices))
    if fit is None:
        context.log.info("the memory of the training is not estimated: the sizes of the model are not known")
        return
    parts = ", ".join(f"{name} {gib:g}" for name, gib in fit.parts.items())
    context.log.info("GPU memory: %s, %d rows at a time. %s", fit.text, fit.micro_batch_size, parts)
    if fit.verdict == "DoesNotFit" and spec.fit.policy == "Enforce":
        raise DoesNotFit(reasons.UNFIT, f"The training does not fit: {fit.text}; {parts}", fit.advice or "")


def check_output(store: Store, uri: str) -> None:
    """Raises BadInput when nothing can be written at `uri`."""
    try:
        store.check_writable(uri)
    except AccessDenied as error:
        raise BadInput(
            reasons.OUTPUT_NOT_WRITABLE, f"{uri} cannot be written: {error.message}", error.advice
        ) from error


def run(context: StageContext) -> PrepareResult:
    """Cleans, splits and tokenizes the data that `identify` has downloaded, and reports on it.

    Raises:
        BadInput: a row is wrong (named by URI and line), or too few rows are kept.
        TryAgain: the pod was stopped.
    """
    settings = context.spec.dataset.clean
    if process_count(context.threads, data_size(fetched_dataset(context.work / DATA_DIR))) > 1:
        served = ModelTokenizer(context.work / TOKENIZER_DIR, context.spec.model.uri)
        start_server([CleanBlocks.__module__, TokenizeBlocks.__module__], served.read)
    tokenizer = example_tokenizer(context)
    with dropped_rows(context) as dropped:
        reading = Reading(settings, BadRows(settings.bad_rows, dropped))
        minimum, splits = required_rows(context.spec)
        report = DataReport(minimum, dropped, reading.findings.originals, splits)
        if replay := context.spec.dataset.replay:
            report.replay = Replayed(replay.uri)
            reading.general = Reading(settings, BadRows(settings.bad_rows, report.replay.dropped))
        try:
            output = make_rows(context, tokenizer, reading, report, dropped)
        except BadInput as error:
            raise with_dropped_rows(error, context, dropped) from error
    return PrepareResult(
        dataset=publish(context, report, reading, output),
        tokenizer=publish_tokenizer(context),
        end_of_turn=report.answers.stop_tokens(tokenizer.context.turns.last_end),
        total_steps=total_steps(context.spec.training, report.sequences[TRAIN]),
    )


def dropped_rows(context: StageContext) -> DroppedRows:
    """The rows that are not kept, written down without secrets."""
    return DroppedRows(context.work / DROPPED_FILE, redaction(context.spec.dataset.clean))


def required_rows(spec: FineTuneJobSpec) -> tuple[int, tuple[Split, ...]]:
    """How many rows are needed at least, and the splits that must have some."""
    if spec.trains:
        return spec.dataset.clean.min_rows, (TRAIN, VALIDATION)
    calibrates: tuple[Split, ...] = (TRAIN,) if spec.rows.train else ()
    return 0, (*calibrates, VALIDATION) if spec.evaluates else calibrates


def with_dropped_rows(error: BadInput, context: StageContext, dropped: DroppedRows) -> BadInput:
    """The error; its advice says where the dropped rows are, which are uploaded."""
    dropped.close()
    if not dropped.counts or dropped.path is None:
        return error
    uri = context.uri("prepare", DROPPED_FILE)
    context.store.upload(dropped.path, uri)
    return BadInput(error.reason, error.message, f"{sentence(error.advice)} The dropped rows are in {uri}.")


def make_rows(
    context: StageContext, tokenizer: ExampleTokenizer, reading: Reading, report: DataReport, dropped: DroppedRows
) -> Path:
    """Cleans, splits and tokenizes all rows; returns the directory with the result."""
    spec, output = context.spec, context.work / "output"
    limits = spec.dataset.clean, spec.training.max_length
    general = CleaningContext(*limits, report.replay.dropped) if report.replay else None
    cleaning = CleaningContext(*limits, dropped, report.answers, report.changes, general)
    context.progress.update(percent=20, message="cleaning the rows")
    spooled = clean(context, cleaning, reading)
    report.rows_in = reading.findings.rows
    reading.bad.require(report.rows_in)
    report.require_rows(len(spooled))
    shutil.rmtree(output, ignore_errors=True)
    tokenize(context, spooled, tokenizer, cleaning, reading, report, output)
    reading.bad.require(report.rows_in)
    if report.replay and reading.general:
        reading.general.bad.require(reading.general.findings.rows)
        report.replay.require()
    report.require_splits()
    require_answers(report.answers, spec.dataset.clean.min_trained_answers)
    return output


def example_tokenizer(context: StageContext) -> ExampleTokenizer:
    """The tokenizer and the chat template that `identify` has left.

    Raises:
        BadInput: the tokenizer does not fit the model, or the template cannot be trained; see
            tuneyard_trainer.data.tokenize.turns.find_format.
    """
    model, directory = context.spec.model, context.work / TOKENIZER_DIR
    tokenizer = ModelTokenizer(directory, model.uri)
    template = ChatTemplate((directory / TEMPLATE_FILE).read_text(), tokenizer.special_tokens)
    check_vocabulary(tokenizer, template, embedding_size(context))
    where = "model.chatTemplate" if model.chat_template else f"The chat template of {model.uri}"
    return ExampleTokenizer(template, tokenizer, where)


def embedding_size(context: StageContext) -> int:
    """The rows of the base model's embedding, which `identify` has left; any number where they are not known."""
    rows: int | None = json.loads((context.work / EMBEDDING_FILE).read_text())
    return sys.maxsize if rows is None else rows


def clean(context: StageContext, cleaning: CleaningContext, reading: Reading) -> Spooled:
    """Reads all sources, writes the rows that are kept to disk, compares them with each other, and holds some out."""
    directory = context.work / DATA_DIR
    files, settings = fetched_dataset(directory), cleaning.settings

    def followed(rows: Iterable[WrittenRow]) -> Iterator[WrittenRow]:
        for number, row in enumerate(rows):
            if number % PROGRESS_ROWS == 0:
                context.progress.update(message=f"cleaning the rows: {reading.findings.rows:,}")
            yield row

    work = CleanBlocks(
        settings,
        cleaning.max_length,
        with_words=settings.near_duplicates > 0 or settings.leakage == "drop",
        with_questions=settings.conflicting_answers != "keep",
    )
    with Workers(work, process_count(context.threads, data_size(files))) as workers:
        rows = clean_dataset(context.spec.rows, files, reading, cleaning, workers)
        different = apply_steps(REPEAT_STEPS, followed(stoppable(rows, context)), cleaning)
        spooled = spool(different, directory / SPOOL_FILE)
    apply_set_steps(SET_STEPS, spooled, cleaning)
    spooled.validation = held_out_keys(context, spooled)
    apply_set_steps(SPLIT_STEPS, spooled, cleaning)
    return spooled


def data_size(files: Files) -> int:
    """In bytes."""
    return sum(file.path.stat().st_size for found in files.values() for file in found)


def held_out_keys(context: StageContext, spooled: Spooled) -> set[Key]:
    """The keys of the rows for validation: those of the validation source, or a share of all."""
    validation = context.spec.dataset.validation
    if validation.uri:
        return spooled.validation
    return held_out(spooled.keys, validation.fraction, context.spec.training.seed)


def tokenize(
    context: StageContext,
    spooled: Spooled,
    tokenizer: ExampleTokenizer,
    cleaning: CleaningContext,
    reading: Reading,
    report: DataReport,
    output: Path,
) -> None:
    """Writes the tokenized rows of all splits into `output`: first the job's own, then those of dataset.replay."""

    def followed(lines: Iterable[SpooledLine]) -> Iterator[SpooledLine]:
        for number, line in enumerate(lines):
            if number % PROGRESS_ROWS == 0:
                context.progress.update(percent=30 + 60 * number // len(spooled), message="tokenizing")
            yield line

    def on_row(split: Split, row: TokenizedExample) -> None:
        report.add(split, row)
        if split == TRAIN and not report.trained_row:
            report.trained_row = tokenizer.show(row.source, length(row.tokens))

    def all_rows(workers: Workers[list[SpooledLine], TokenizedBlock]) -> Iterator[tuple[Split, TokenizedExample]]:
        for row in tokenize_lines(stoppable(followed(spooled.lines()), context), reading.bad, cleaning, workers):
            yield VALIDATION if row.source.key in spooled.validation else TRAIN, row
        if (replay := context.spec.dataset.replay) and cleaning.general and reading.general:
            order = spooled.general(context.spec.training.seed)
            lines = stoppable(map(spooled.line, order), context)
            general = tokenize_lines(lines, reading.general.bad, cleaning.general, workers)
            tokens = wanted_tokens(report.trained_tokens, replay.fraction)
            yield from replayed(general, held_out_count(len(order)), tokens)

    splits: tuple[Split, ...] = (TRAIN, VALIDATION, GENERAL) if report.replay else (TRAIN, VALIDATION)
    work = TokenizeBlocks(tokenizer, embedding_size(context), context.spec.training, cleaning.settings)
    with Workers(work, process_count(context.threads, spooled.path.stat().st_size)) as workers:
        write_splits(all_rows(workers), splits, output, on_row)


def publish(
    context: StageContext,
    report: DataReport,
    reading: Reading,
    output: Path,
) -> DatasetSummary:
    """Uploads the rows, the report and the dropped rows."""
    context.progress.update(percent=90, message="uploading")
    digest = describe_directory(output, "dataset").digest
    document = report.document(context.name, digest, reading_document(reading.findings, reading.bad), context.fit)
    write_report(output, document)
    if report.dropped.counts:
        shutil.move(context.work / DROPPED_FILE, output / DROPPED_FILE)
    files = [path for path in output.rglob("*") if path.is_file()]
    context.store.upload_all({context.uri("prepare", path.relative_to(output).as_posix()): path for path in files})
    context.log.info("%d of %d rows kept, %d tokens", report.kept, report.rows_in, report.tokens)
    summary = report.dataset(digest)
    if summary.replay:
        context.log.info("%s", summary.replay.text)
    if report.answers.trained < report.answers.given:
        context.log.warning("not every answer is trained: %s", answers_status(report.answers).text)
    return summary


def publish_tokenizer(context: StageContext) -> ArtifactRef:
    """Uploads the tokenizer and the chat template, which export publishes with the model."""
    uri = context.uri("prepare", TOKENIZER_DIR)
    manifest = publish_directory(context.store, context.work / TOKENIZER_DIR, uri, "tokenizer")
    return ArtifactRef(uri=uri, digest=manifest.digest)


Item = TypeVar("Item")


def stoppable(items: Iterable[Item], context: StageContext) -> Iterator[Item]:
    """The items, until the pod is stopped.

    Raises:
        TryAgain: the pod was stopped.
    """
    for item in items:
        if context.stopping.is_set():
            raise preempted()
        yield item


PROGRAM: Final = StageProgram(run=run, identify=identify)
