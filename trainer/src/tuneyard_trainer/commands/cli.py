"""The tuneyard command: runs one stage in a pod or all stages on this machine, or validates a file."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from tuneyard_api import names, reasons
from tuneyard_api.contracts.termination import termination_message, write_termination_message
from tuneyard_api.registry import DATA_FORMATS
from tuneyard_api.stages import STAGES
from tuneyard_store.credentials import Credentials, from_environment, load_credentials
from tuneyard_store.errors import StoreError
from tuneyard_store.schemes import open_store
from tuneyard_trainer.commands.jobfile import read_job_json, read_job_yaml
from tuneyard_trainer.commands.local_run import run_locally
from tuneyard_trainer.commands.push import print_pushed, push
from tuneyard_trainer.commands.retention import collect
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, StageError, from_store
from tuneyard_trainer.runtime.progress import Progress, serve_progress
from tuneyard_trainer.runtime.rendezvous import group_from
from tuneyard_trainer.runtime.stage_runner import Outcome, digests_from, failure
from tuneyard_trainer.stages import run_stage
from tuneyard_trainer.tracking.secret import files_of

log = logging.getLogger("tuneyard")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: see tuneyard_api.names."""
    options = _parser().parse_args(arguments)
    code: int = options.command(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuneyard", description="From data to a tuned, proven model.")
    parser.add_argument("--version", action="version", version=f"tuneyard {version('tuneyard-trainer')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    stage = commands.add_parser("stage", help="run one stage, in a pod")
    stage.add_argument("stage", choices=list(STAGES))
    stage.add_argument("--job", type=Path, default=Path(names.JOB_FILE), help="default: %(default)s")
    stage.add_argument("--credentials", type=Path, default=Path(names.CREDENTIALS_DIR), help="default: %(default)s")
    stage.add_argument("--tracking", type=Path, default=Path(names.TRACKING_DIR), help="default: %(default)s")
    stage.add_argument("--workdir", type=Path, default=Path(names.WORK_DIR), help="default: %(default)s")
    stage.set_defaults(command=_stage)

    run = commands.add_parser("run", help="run all stages of a FineTuneJob on this machine")
    run.add_argument("file", type=Path, help="a YAML file with a FineTuneJob")
    run.add_argument("--credentials", type=Path, help="a directory with the Secret's files; default: AWS_* variables")
    run.add_argument("--workdir", type=Path, default=Path("tuneyard-work"), help="default: %(default)s")
    run.set_defaults(command=_run)

    push = commands.add_parser("push", help="upload a model or data, and print the YAML that uses it")
    push.add_argument(
        "path", type=Path, help="a model's directory as Hugging Face has it, or JSON Lines: a file or a directory"
    )
    push.add_argument("uri", help="where to, for example s3://models/my-model or s3://data/my-data.jsonl")
    push.add_argument("--credentials", type=Path, help="a directory with the Secret's files; default: AWS_* variables")
    push.add_argument("-o", "--output", choices=["yaml", "json"], default="yaml", help="default: %(default)s")
    push.set_defaults(command=_push)

    gc = commands.add_parser("gc", help="delete old releases, and what runs have left that never published")
    gc.add_argument("file", type=Path, help="a YAML file with a FineTuneJob: its output.uri, and output.keep")
    gc.add_argument("--keep", type=int, help="releases that stay in any case; default: output.keep")
    gc.add_argument(
        "--in-use",
        metavar="FILE",
        help="what the cluster uses: the output of `kubectl get finetunejobs,modelservers -A -o json`; - is stdin",
    )
    gc.add_argument(
        "--unpublished-days",
        metavar="DAYS",
        type=_days,
        help="delete what runs have left that never published, where nothing was written for so many days; default: "
        "it stays",
    )
    gc.add_argument("--delete", action="store_true", help="delete; default: only say what would be deleted")
    gc.add_argument("--credentials", type=Path, help="a directory with the Secret's files; default: AWS_* variables")
    gc.set_defaults(command=_gc)

    validate = commands.add_parser("validate", help="check a file with a FineTuneJob")
    validate.add_argument("file", type=Path)
    validate.set_defaults(command=_validate)
    _add_data(
        commands.add_parser("data", help="look at training data").add_subparsers(required=True, metavar="COMMAND")
    )
    return parser


def _add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = commands.add_parser("check", help="do what prepare does with data, on this machine, and write its report")
    check.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a data file, or a directory with some")
    check.add_argument("--model", type=Path, help="a directory with a tokenizer and a chat template, to count tokens")
    check.add_argument("--job", type=Path, help="a YAML file with a FineTuneJob, for its settings")
    check.add_argument("--format", choices=["auto", *DATA_FORMATS], help="of the rows; default: the job's, or auto")
    check.add_argument(
        "--columns", metavar="FIELD=COLUMN,...", type=_pairs, help="your names of fields, as in prompt=question"
    )
    check.add_argument("--ignore", metavar="FIELD", action="append", help="a field that is not read; may be repeated")
    check.add_argument("--max-length", type=int, help="tokens per row; default: the job's, or 1024")
    check.add_argument("--output", type=Path, default=Path("data-report"), help="a directory; default: %(default)s")
    check.set_defaults(command=_check)


def _pairs(text: str) -> dict[str, str]:
    pairs = dict(pair.partition("=")[::2] for pair in text.split(","))
    if not all(pairs.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=COLUMN,...")
    return pairs


def _days(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1")
    return int(text)


def _stage(options: argparse.Namespace) -> int:
    """Writes a termination message, whatever happens."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    stopping = _stop_on(signal.SIGTERM, signal.SIGINT)
    progress = Progress(options.stage)
    serve_progress(progress, int(os.environ.get(names.ENV_PROGRESS_PORT, names.PROGRESS_PORT)))
    try:
        outcome = run_stage(_context(options, progress, stopping))
    except Exception as error:
        outcome = failure(error, log)
    _write_termination_message(outcome)
    return outcome.exit_code


def _context(options: argparse.Namespace, progress: Progress, stopping: threading.Event) -> StageContext:
    """Raises StageError when the job cannot be read or the credentials are missing."""
    job = read_job_json(options.job)
    secret = job.spec.output.secret_ref
    threads = os.environ.get(names.ENV_THREADS)
    return StageContext(
        stage=options.stage,
        name=job.name,
        spec=job.spec,
        store=open_store(_credentials(options.credentials if secret else None, secret.name if secret else "")),
        work=options.workdir.absolute(),
        digests=digests_from(os.environ),
        threads=int(threads) if threads else None,
        tracking=files_of(options.tracking),
        pods_killed=int(os.environ.get(names.ENV_PODS_KILLED, "0")),
        group=group_from(os.environ, job.spec.resources.nodes),
        progress=progress,
        stopping=stopping,
        log=log,
    )


def _credentials(directory: Path | None, secret: str = "") -> Credentials:
    """The credentials in a directory, else those in the environment."""
    try:
        return load_credentials(directory, secret) if directory else from_environment()
    except StoreError as error:
        raise from_store(error) from error


def _write_termination_message(outcome: Outcome) -> None:
    message = termination_message(outcome.reason, outcome.message, outcome.advice, outcome.report)
    try:
        write_termination_message(message)
    except OSError as error:
        log.warning("cannot write the termination message: %s", error)


def _run(options: argparse.Namespace) -> int:
    try:
        job = read_job_yaml(options.file)
        store = open_store(_credentials(options.credentials))
    except StageError as error:
        return _reject(error)
    return run_locally(job, store, options.workdir.absolute(), _stop_on(signal.SIGINT, signal.SIGTERM))


def _push(options: argparse.Namespace) -> int:
    try:
        pushed = push(open_store(_credentials(options.credentials)), options.path, options.uri)
    except StageError as error:
        return _reject(error)
    print_pushed(pushed, options.output)
    return names.EXIT_DONE


def _gc(options: argparse.Namespace) -> int:
    try:
        lines = collect(
            open_store(_credentials(options.credentials)),
            read_job_yaml(options.file).spec.output,
            options.keep,
            _text(options.in_use) if options.in_use else None,
            unpublished_days=options.unpublished_days,
            deletes=options.delete,
        )
    except StageError as error:
        return _reject(error)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return names.EXIT_DONE


def _text(name: str) -> str:
    """Of a file, or with - of stdin; raises BadInput where it cannot be read."""
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except OSError as error:
        raise BadInput(reasons.INVALID_SPEC, f"{name} cannot be read: {error.strerror}", "Correct --in-use.") from error


def _validate(options: argparse.Namespace) -> int:
    try:
        job = read_job_yaml(options.file)
    except StageError as error:
        return _reject(error)
    sys.stdout.write(f"{options.file}: FineTuneJob {job.name} is valid.\n")
    return names.EXIT_DONE


def _check(options: argparse.Namespace) -> int:
    # A stage starts without numpy, which only this command needs before it.
    from tuneyard_trainer.commands import data_check  # noqa: PLC0415

    try:
        spec = read_job_yaml(options.job).spec if options.job else data_check.default_spec()
    except StageError as error:
        return _reject(error)
    if options.max_length:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"max_length": options.max_length})})
    given = {"format": options.format, "columns": options.columns, "ignore": options.ignore}
    source = {name: value for name, value in given.items() if value is not None}
    check = data_check.Check(options.files, spec, options.model, source, options.output)
    return data_check.check_and_print(check, _stop_on(signal.SIGINT, signal.SIGTERM))


def _reject(error: StageError) -> int:
    sys.stderr.write(f"{error.reason}: {error}\n")
    return error.exit_code


def _stop_on(*signals: signal.Signals) -> threading.Event:
    """An event that is set by these signals; a second Ctrl-C ends the process at once."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    for handled in signals:
        signal.signal(handled, stop)
    return stopping


if __name__ == "__main__":
    sys.exit(main())
