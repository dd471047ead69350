"""The prepare stage: checks what the other stages will need, computes their digests, and turns the data into tokens."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from tuneyard_api import reasons
from tuneyard_api.contracts.results import REPORT_FILES, DatasetSummary, PrepareResult
from tuneyard_api.names import Stage
from tuneyard_api.stages import stage_digests
from tuneyard_store.artifact import describe_directory
from tuneyard_store.errors import AccessDenied
from tuneyard_store.store import Store
from tuneyard_trainer.backends import check_training
from tuneyard_trainer.backends.schedule import total_steps
from tuneyard_trainer.data.cleaning import ROW_STEPS, TOKEN_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_steps
from tuneyard_trainer.data.dataset import fetch_dataset, fetched_dataset, read_dataset, write_splits
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.split import TRAIN, held_out
from tuneyard_trainer.data.spool import Spooled, spool
from tuneyard_trainer.data.template import load_template
from tuneyard_trainer.data.tokenize import ExampleTokenizer, tokenize_rows
from tuneyard_trainer.exporters import check_formats
from tuneyard_trainer.model.adaptable import check_target_modules
from tuneyard_trainer.model.check import check_model, read_shape
from tuneyard_trainer.reports.data import DataReport, render_markdown
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, preempted
from tuneyard_trainer.runtime.stage_runner import StageProgram

MODEL_DIR: Final = "model"
DATA_DIR: Final = "data"
SPOOL_FILE: Final = "clean"
PROGRESS_ROWS: Final = 500


def identify(context: StageContext) -> dict[Stage, str]:
    """Checks output, model and template, downloads the data and computes all digests. The cheap checks come first.

    Raises:
        BadInput: what is wrong, where, and what to do.
    """
    spec, directory = context.spec, context.work / MODEL_DIR
    check_training(spec)
    check_output(context.store, spec.output.uri)
    files = check_model(context.store, spec.model.uri, directory)
    shape = read_shape(context.store, files, directory)
    check_target_modules(spec.training.lora, shape, spec.model.uri)
    check_formats(spec.export.formats, shape, spec.model.uri)
    load_template(directory, spec.model.chat_template, spec.model.uri)
    context.progress.update(percent=5, message="fetching the data")
    data = fetch_dataset(context.store, spec.dataset, context.work / DATA_DIR)
    model = [[name, item.size, item.etag] for name, item in files.items()]
    hashes = {name: [[file.uri, file.sha256] for file in found] for name, found in data.items()}
    return stage_digests(spec, {"model": model, "data": hashes})


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
    spec = context.spec
    report = DataReport(min_rows=spec.dataset.clean.min_rows)
    cleaning = CleaningContext(spec.dataset.clean, spec.training.max_length, report.dropped)
    context.progress.update(percent=20, message="cleaning the rows")
    spooled = clean(context, cleaning, report)
    report.require_rows(len(spooled))
    output = context.work / "output"
    shutil.rmtree(output, ignore_errors=True)
    tokenize(context, spooled, cleaning, report, output)
    report.require_splits()
    steps = total_steps(spec.training, report.rows[TRAIN])
    return PrepareResult(dataset=publish(context, report, output), total_steps=steps)


def clean(context: StageContext, cleaning: CleaningContext, report: DataReport) -> Spooled:
    """Reads all sources, and writes the rows that are kept to disk."""
    directory = context.work / DATA_DIR

    def counted(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
        for row in rows:
            report.rows_in += 1
            yield row

    rows = counted(read_dataset(context.spec.dataset, fetched_dataset(directory)))
    return spool(apply_steps(ROW_STEPS, stoppable(rows, context), cleaning), directory / SPOOL_FILE)


def tokenize(
    context: StageContext, spooled: Spooled, cleaning: CleaningContext, report: DataReport, output: Path
) -> None:
    """Writes the tokenized rows of both splits into `output`."""
    spec, directory = context.spec, context.work / MODEL_DIR
    template = load_template(directory, spec.model.chat_template, spec.model.uri)
    tokenizer = ExampleTokenizer(directory, template, spec.model.uri)
    validation = spooled.validation
    if not spec.dataset.validation.uri:
        validation = held_out(spooled.keys, spec.dataset.validation.fraction, spec.training.seed)

    def followed(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
        for number, row in enumerate(rows):
            if number % PROGRESS_ROWS == 0:
                context.progress.update(percent=30 + 60 * number // len(spooled), message="tokenizing")
            yield row

    tokenized = tokenize_rows(followed(stoppable(spooled.rows(), context)), tokenizer)
    write_splits(apply_steps(TOKEN_STEPS, tokenized, cleaning), validation, output, report.add)


def publish(context: StageContext, report: DataReport, output: Path) -> DatasetSummary:
    """Uploads the rows and the report."""
    context.progress.update(percent=90, message="uploading")
    digest = describe_directory(output, "dataset").digest
    document = report.document(context.name, digest)
    (output / "report.json").write_text(json.dumps(document.wire(), indent=2, ensure_ascii=False))
    (output / REPORT_FILES["prepare"]).write_text(render_markdown(document))
    files = [path for path in output.rglob("*") if path.is_file()]
    context.store.upload_all({context.uri("prepare", path.relative_to(output).as_posix()): path for path in files})
    context.log.info("%d of %d rows kept, %d tokens", report.kept, report.rows_in, report.tokens)
    return report.dataset(digest)


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
