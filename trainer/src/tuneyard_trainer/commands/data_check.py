"""`tuneyard data check`: what prepare does with data, on this machine, without a cluster or a store."""

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console

from tuneyard_api import names, reasons
from tuneyard_api.contracts.results import REPORT_FILES
from tuneyard_api.kinds.dataset import BadRowsPolicy, Cleaning, DataSource, ValidationSource
from tuneyard_api.kinds.export import Export
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_store.artifact import describe_directory
from tuneyard_store.credentials import Credentials
from tuneyard_store.schemes import open_store
from tuneyard_trainer.commands.bars import progress_bars, show
from tuneyard_trainer.commands.check_tables import tables
from tuneyard_trainer.data.bad_rows import BadRows
from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.dataset import sources, write_index
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.files import DataFile
from tuneyard_trainer.data.readers import endings
from tuneyard_trainer.data.source import Reading
from tuneyard_trainer.data.split import TRAIN, VALIDATION
from tuneyard_trainer.data.template import TEMPLATE_FILE, require_template
from tuneyard_trainer.data.tokenize import ExampleTokenizer
from tuneyard_trainer.data.tokenize.tokenizer import write_served_tokenizer
from tuneyard_trainer.reports.answers import require_answers
from tuneyard_trainer.reports.data import DataReport
from tuneyard_trainer.reports.data_document import DataDocument
from tuneyard_trainer.reports.data_page import write_report
from tuneyard_trainer.reports.reading import reading_document
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, StageError
from tuneyard_trainer.runtime.progress import Progress
from tuneyard_trainer.stages import prepare

NOWHERE: Final = "s3://local/local"
"""In the place of the URIs that a check does not use."""
PIPE_WIDTH: Final = 300  # columns: an example stays on its line
LENIENT: Final[dict[str, Any]] = {"min_rows": 1, "min_trained_answers": 0, "bad_rows": BadRowsPolicy(max_fraction=1)}
"""All rows are looked at before anything is judged."""


class Check(NamedTuple):
    """What is checked, and how."""

    files: Sequence[Path]
    """Files, and directories with files."""
    spec: FineTuneJobSpec
    """Of a job that would use them."""
    model: Path | None
    """A directory with the tokenizer and the chat template; None: nothing is tokenized."""
    source: dict[str, Any]
    """Fields of DataSource that replace those of the job."""
    output: Path
    """A directory for the report and the dropped rows."""


class Checked(NamedTuple):
    """What was found."""

    document: DataDocument
    problems: list[StageError]
    """For each of them a job would fail."""


def default_spec() -> FineTuneJobSpec:
    """A job that has only what it must have."""
    given = {"model": {"uri": NOWHERE}, "dataset": {"train": [{"uri": NOWHERE}]}, "output": {"uri": NOWHERE}}
    return FineTuneJobSpec.model_validate(given)


def check_and_print(check: Check, stopping: threading.Event) -> int:
    """Prints tables and the verdict, and writes the report; returns 0 if a job would take the data."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    try:
        with progress_bars(console) as bars:
            bar = bars.add_task("check", total=100, detail="")
            checked = check_data(check, Progress("prepare", partial(show, bars, bar)), stopping)
    except StageError as error:
        console.print(f"{error.reason}: {error}", soft_wrap=True, markup=False, highlight=False)
        return error.exit_code
    for table in tables(checked.document):
        console.print(table)
    for problem in checked.problems:
        console.print(f"A job would fail. {problem.reason}: {problem}", soft_wrap=True, markup=False, highlight=False)
    if not checked.problems:
        console.print("A job would take these rows.", highlight=False)
    page = check.output / REPORT_FILES["prepare"]
    console.print(f"Report: {page}", soft_wrap=True, markup=False, highlight=False)
    return checked.problems[0].exit_code if checked.problems else names.EXIT_DONE


def check_data(check: Check, progress: Progress, stopping: threading.Event) -> Checked:
    """Does what prepare does, and writes report.json, report.html and dropped.jsonl.

    Raises:
        BadInput: there is no such file, or the tokenizer cannot be used.
        TryAgain: it was stopped.
    """
    spec = local_spec(check)
    check.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tuneyard-check-") as directory:
        work = Path(directory)
        context = StageContext(
            stage="prepare",
            name=", ".join(path.name for path in check.files),
            spec=spec,
            store=open_store(Credentials()),
            work=work,
            progress=progress,
            stopping=stopping,
        )
        (work / prepare.DATA_DIR).mkdir()
        found = [list(data_files(path)) for path in check.files]
        write_index(work / prepare.DATA_DIR, dict(zip(sources(spec.dataset), found, strict=True)))
        tokenizer = local_tokenizer(context, check.model.absolute()) if check.model else None
        with prepare.dropped_rows(context) as dropped:
            reading = Reading(spec.dataset.clean, BadRows(spec.dataset.clean.bad_rows, dropped))
            report = DataReport(spec.dataset.clean.min_rows, dropped, reading.findings.originals)
            problems = read_rows(context, tokenizer, reading, report, dropped)
        rows = work / "output"
        digest = describe_directory(rows, "dataset").digest if rows.is_dir() and not problems else ""
        document = report.document(context.name, digest, reading_document(reading.findings, reading.bad))
        write_report(check.output, document)
        move_dropped(work, check.output)
    judged = judge(check.spec, report, reading, tokenized=tokenizer is not None)
    # Where too few rows are left, the job's own limits say why.
    told = judged if all(problem.reason == reasons.TOO_FEW_ROWS for problem in problems) else []
    return Checked(document, told or problems)


def local_spec(check: Check) -> FineTuneJobSpec:
    """The job with these files, whose settings let every row be looked at."""
    given = check.spec.rows
    first, *_ = [*given.train, given.validation.source or DataSource(uri="s3://rows/rows")]
    train = [first.model_copy(update={**check.source, "uri": str(path)}) for path in check.files]
    validation = given.validation if given.validation.uri is None else ValidationSource(fraction=0.05)
    clean = given.clean.model_copy(update=LENIENT)
    dataset = given.model_copy(update={"train": train, "validation": validation, "clean": clean, "replay": None})
    model = check.spec.model.model_copy(update={"uri": str(check.model)} if check.model else {})
    export = Export(formats=check.spec.export.formats)  # without calibration rows of its own
    return check.spec.model_copy(update={"dataset": dataset, "model": model, "export": export})


def data_files(path: Path) -> Iterator[DataFile]:
    """The file, or the data files below a directory.

    Raises:
        BadInput: there are none.
    """
    found = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.name.endswith(endings()))
    if not found:
        what = "has no data files" if path.is_dir() else "does not exist"
        advice = f"Give files that end in {', '.join(endings())}, or a directory with some."
        raise BadInput(reasons.DATASET_NOT_FOUND, f"{path} {what}", advice)
    yield from (DataFile(str(item), item.absolute(), "") for item in found)


def local_tokenizer(context: StageContext, model: Path) -> ExampleTokenizer:
    """The tokenizer and the chat template in a directory; see prepare.example_tokenizer.

    Raises:
        BadInput: there is none, or it cannot be used.
    """
    template = require_template(model, context.spec.model.chat_template, str(model))
    write_served_tokenizer(context, model, context.work / prepare.TOKENIZER_DIR)
    (context.work / prepare.TOKENIZER_DIR / TEMPLATE_FILE).write_text(template)
    (context.work / prepare.EMBEDDING_FILE).write_text(json.dumps(None))
    return prepare.example_tokenizer(context)


def read_rows(
    context: StageContext,
    tokenizer: ExampleTokenizer | None,
    reading: Reading,
    report: DataReport,
    dropped: DroppedRows,
) -> list[StageError]:
    """Counts all rows; returns what prevents that the rest is read."""
    try:
        if tokenizer:
            prepare.make_rows(context, tokenizer, reading, report, dropped)
        else:
            clean_rows(context, reading, report, dropped)
    except BadInput as error:
        report.rows_in = reading.findings.rows
        return [error]
    return []


def clean_rows(context: StageContext, reading: Reading, report: DataReport, dropped: DroppedRows) -> None:
    """What prepare does before it tokenizes."""
    spec = context.spec
    cleaning = CleaningContext(spec.dataset.clean, spec.training.max_length, dropped, report.answers, report.changes)
    spooled = prepare.clean(context, cleaning, reading)
    report.rows_in = reading.findings.rows
    for row in spooled.rows():
        report.add_row(VALIDATION if row.key in spooled.validation else TRAIN, row)
    report.require_splits()


def judge(spec: FineTuneJobSpec, report: DataReport, reading: Reading, *, tokenized: bool) -> list[StageError]:
    """What a job with the spec's own limits would fail for."""
    clean: Cleaning = spec.dataset.clean
    report.min_rows, _ = prepare.required_rows(spec)
    checks: list[Callable[[], None]] = [
        lambda: reading.bad.require(report.rows_in, clean.bad_rows),
        lambda: report.require_rows(report.kept),
    ]
    if tokenized:
        checks.append(lambda: require_answers(report.answers, clean.min_trained_answers))
    problems: list[StageError] = []
    for check in checks:
        try:
            check()
        except BadInput as error:
            problems.append(error)
    return problems


def move_dropped(work: Path, output: Path) -> None:
    """Moves the dropped rows beside the report; those of an earlier check are removed."""
    (output / prepare.DROPPED_FILE).unlink(missing_ok=True)
    if (work / prepare.DROPPED_FILE).exists():
        shutil.move(work / prepare.DROPPED_FILE, output / prepare.DROPPED_FILE)
