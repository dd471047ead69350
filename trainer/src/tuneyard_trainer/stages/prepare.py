"""The prepare stage: finds what is wrong before it costs much, names every stage's digest, makes rows of tokens."""

import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob import DataSource
from tuneyard_store.artifact import describe_directory
from tuneyard_store.errors import AccessDenied
from tuneyard_trainer.backends.schedule import micro_batch_size, total_steps
from tuneyard_trainer.data import clean, source
from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.shards import ShardWriter, TokenizedRow
from tuneyard_trainer.data.source import DataFile, SourceRow
from tuneyard_trainer.data.tokenize import RowTokenizer, load_template, supervised, truncated
from tuneyard_trainer.model.check import check_formats, check_weights, fetch_config, list_model
from tuneyard_trainer.reports.data import DataReport, render_markdown
from tuneyard_trainer.runtime.digests import stage_digests
from tuneyard_trainer.runtime.errors import BadInput, TryAgain, sentence
from tuneyard_trainer.runtime.stage_runner import StageContext

Json = dict[str, Any]

MODEL_DIR: Final = "model"
DATA_DIR: Final = "data"
TRAIN: Final = "train"
VALIDATION: Final = "validation"
INDEX_FILE: Final = "files.json"
DEFAULT_FRACTION: Final = 0.05
PROGRESS_ROWS: Final = 500


def identify(context: StageContext) -> dict[str, str]:
    """Checks output, model and template, fetches the data, computes all digests. The cheap checks first.

    Raises:
        BadInput: what is wrong, where, and what to do.
    """
    spec = context.spec
    micro_batch_size(spec.training, spec.resources.devices)
    _check_output(context)
    files = list_model(context.store, spec.model.uri)
    directory = context.work / MODEL_DIR
    fetch_config(context.store, files, directory)
    check_weights(directory, files, spec.model.uri)
    check_formats(directory, spec.export.formats, spec.model.uri)
    load_template(directory, spec.model.chat_template, spec.model.uri)
    context.progress.update(percent=5, message="fetching the data")
    data = _fetch_data(context)
    model = [[name, each.size, each.etag] for name, each in files.items()]
    hashes = {name: [[file.uri, file.sha256] for file in found] for name, found in data.items()}
    return stage_digests(spec, {"model": model, "data": hashes})


def _check_output(context: StageContext) -> None:
    uri = context.spec.output.uri
    try:
        context.store.check_writable(uri)
    except AccessDenied as error:
        raise BadInput(
            reasons.OUTPUT_NOT_WRITABLE, f"{uri} cannot be written: {error.message}", error.advice
        ) from error


def _sources(context: StageContext) -> dict[str, str]:
    """Where each source lies, by the name of its folder here."""
    dataset = context.spec.dataset
    sources = {f"{TRAIN}-{number}": each.uri for number, each in enumerate(dataset.train)}
    return sources | ({VALIDATION: dataset.validation.uri} if dataset.validation.uri else {})


def _fetch_data(context: StageContext) -> dict[str, list[DataFile]]:
    root = context.work / DATA_DIR
    shutil.rmtree(root, ignore_errors=True)
    fetched = {name: source.fetch(context.store, uri, root / name) for name, uri in _sources(context).items()}
    index = {name: [(file.uri, str(file.path), file.sha256) for file in files] for name, files in fetched.items()}
    (root / INDEX_FILE).write_text(json.dumps(index))
    return fetched


def _fetched(context: StageContext) -> dict[str, list[DataFile]]:
    index = json.loads((context.work / DATA_DIR / INDEX_FILE).read_text())
    return {name: [DataFile(uri, Path(path), sha256) for uri, path, sha256 in files] for name, files in index.items()}


def run(context: StageContext) -> Json:
    """Cleans, splits and tokenizes the data that `identify` has fetched, and reports on it.

    Raises:
        BadInput: a row is wrong (named by uri and line), or too few are left.
        TryAgain: the pod was stopped.
    """
    report = DataReport(min_rows=context.spec.dataset.clean.min_rows)
    context.progress.update(percent=20, message="cleaning the rows")
    spooled, held_out = _clean(context, report)
    if len(spooled.keys) < report.min_rows:
        raise _too_few(len(spooled.keys), report)
    output = context.work / "output"
    shutil.rmtree(output, ignore_errors=True)
    _tokenize(context, spooled, held_out, report, output)
    if min(report.rows[TRAIN], report.rows[VALIDATION]) == 0 or report.kept < report.min_rows:
        raise _too_few(report.kept, report)
    steps = total_steps(context.spec.training, report.rows[TRAIN])
    return {"dataset": _publish(context, report, output), "totalSteps": steps}


def _clean(context: StageContext, report: DataReport) -> tuple[clean.Spooled, set[clean.Key]]:
    """All rows that are kept so far, and the keys of those that are held out."""
    dataset, files = context.spec.dataset, _fetched(context)
    keep = dataset.clean.exact_duplicates == "keep"

    def train_rows() -> Iterator[SourceRow]:
        for number, each in enumerate(dataset.train):
            yield from source.read_source(each, files[f"{TRAIN}-{number}"])

    def counted(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
        for row in rows:
            report.rows_in += 1
            _stop_if_asked(context)
            yield row

    path = context.work / DATA_DIR
    if not dataset.validation.uri:
        spooled = clean.spool(counted(train_rows()), path / "clean", report.dropped, keep_duplicates=keep)
        fraction = dataset.validation.fraction or DEFAULT_FRACTION
        return spooled, clean.held_out(spooled.keys, fraction, context.spec.training.seed)
    # The held-out rows come first, so that a training row that equals one is the duplicate that is dropped.
    held_out_source = DataSource(uri=dataset.validation.uri)
    held_out_rows = list(source.read_source(held_out_source, files[VALIDATION]))
    held_out = {clean.content_key(row.messages) for row in held_out_rows}

    def not_held_out() -> Iterator[SourceRow]:
        for row in counted(train_rows()):
            if clean.content_key(row.messages) in held_out:
                report.dropped[clean.IN_VALIDATION] += 1
            else:
                yield row

    rows = chain(counted(held_out_rows), not_held_out())
    return clean.spool(rows, path / "clean", report.dropped, keep_duplicates=keep), held_out


def _tokenize(
    context: StageContext, spooled: clean.Spooled, held_out: set[clean.Key], report: DataReport, output: Path
) -> None:
    """Writes for each split the tokenized rows, and as text what was kept."""
    model = context.work / MODEL_DIR
    template = load_template(model, context.spec.model.chat_template, context.spec.model.uri)
    tokenizer = RowTokenizer(model, template, context.spec.model.uri)
    writers = {TRAIN: ShardWriter(), VALIDATION: ShardWriter()}
    output.mkdir()
    with (output / f"{TRAIN}.jsonl").open("w") as train, (output / f"{VALIDATION}.jsonl").open("w") as validation:
        texts = {TRAIN: train, VALIDATION: validation}
        for number, (key, row) in enumerate(zip(spooled.keys, spooled.rows(), strict=True)):
            _stop_if_asked(context)
            if number % PROGRESS_ROWS == 0:
                context.progress.update(percent=30 + 60 * number // len(spooled.keys), message="tokenizing")
            split = VALIDATION if key in held_out else TRAIN
            tokens = _fitting(context, row, tokenizer, report)
            if tokens is not None:
                writers[split].add(tokens)
                texts[split].write(json.dumps({"messages": row.messages}, ensure_ascii=False) + "\n")
                report.add(split, tokens, row.messages)
    for split, writer in writers.items():
        writer.write(output / split)


def _fitting(context: StageContext, row: SourceRow, tokenizer: RowTokenizer, report: DataReport) -> TokenizedRow | None:
    """The row's tokens; None when it is dropped."""
    limit, policy = context.spec.training.max_length, context.spec.dataset.clean.max_length
    where = f"{row.uri}, line {row.line}"
    try:
        tokens = tokenizer.tokenize(row.messages)
    except RowError as error:
        raise BadInput(error.reason, f"{where}: {error.message}", sentence(error.advice)) from error
    if len(tokens.input_ids) > limit:
        if policy == "fail":
            raise BadInput(
                reasons.INVALID_ROW,
                f"{where}: {len(tokens.input_ids)} tokens; training.maxLength is {limit}",
                "Raise training.maxLength, shorten the row, or set dataset.clean.maxLength to drop or truncate.",
            )
        if policy == "drop":
            report.dropped[clean.TOO_LONG] += 1
            return None
        tokens = truncated(tokens, limit)
    if supervised(tokens) == 0:
        report.dropped[clean.NOTHING_TO_TRAIN] += 1
        return None
    return tokens


def _publish(context: StageContext, report: DataReport, output: Path) -> Json:
    """Uploads rows and report; returns what the status shows of the data."""
    context.progress.update(percent=90, message="uploading")
    digest = describe_directory(output, "dataset").digest
    summary = report.summary(context.name, digest)
    (output / "report.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False))
    (output / "report.md").write_text(render_markdown(summary))
    files = [path for path in output.rglob("*") if path.is_file()]
    context.store.upload_all({context.uri("prepare", path.relative_to(output).as_posix()): path for path in files})
    context.log.info("%d of %d rows kept, %d tokens", report.kept, report.rows_in, report.tokens)
    return {
        "rowsIn": report.rows_in,
        "rowsKept": report.kept,
        "dropped": dict(sorted(report.dropped.items())),
        "tokens": report.tokens,
        "digest": digest,
        "reportURI": context.uri("prepare", "report.md"),
    }


def _too_few(kept: int, report: DataReport) -> BadInput:
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(report.dropped.items())) or "none"
    if kept >= report.min_rows:
        message = f"Of {kept} rows {report.rows[TRAIN]} are for training and {report.rows[VALIDATION]} for validation"
        advice = "Add rows, change dataset.validation or raise training.maxLength."
    else:
        message = (
            f"{kept} rows are left of {report.rows_in} (dropped: {dropped}); dataset.clean.minRows is {report.min_rows}"
        )
        advice = "Add rows, or lower dataset.clean.minRows."
        if report.dropped[clean.TOO_LONG] > kept:
            advice = "Most were too long: raise training.maxLength, or set dataset.clean.maxLength to truncate."
    return BadInput(reasons.TOO_FEW_ROWS, message, advice)


def _stop_if_asked(context: StageContext) -> None:
    if context.stopping.is_set():
        raise TryAgain(reasons.PREEMPTED, "The stage was stopped before it had finished.", "It will be started again.")
