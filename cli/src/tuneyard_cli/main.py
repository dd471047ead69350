"""The kubectl-tuneyard command."""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final, NoReturn

from tuneyard_api.stages import STAGES
from tuneyard_cli import screen
from tuneyard_cli.durations import parse_duration
from tuneyard_cli.job import render_job, why
from tuneyard_cli.kubectl import FINE_TUNE_JOBS, MODEL_SERVERS, Kubectl, KubectlError, NotFound
from tuneyard_cli.listing import render_list
from tuneyard_cli.logs import follow_logs, print_logs
from tuneyard_cli.objects import Json, is_condition_true, status
from tuneyard_cli.report import evaluation_report, markdown
from tuneyard_cli.server import render_server
from tuneyard_cli.waiting import shown_on, wait_for_end

DONE: Final = 0
FAILED: Final = 1
TIMED_OUT: Final = 2
INTERRUPTED: Final = 130

PASSED_ON: Final = ("kubeconfig", "context", "namespace")


class Parser(argparse.ArgumentParser):
    """Exits with 1: argparse's 2 would look like a timeout of `wait`."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(FAILED, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 failed, 2 timed out."""
    options = _parser().parse_args(arguments)
    given = vars(options)
    kubectl = Kubectl(tuple(f"--{flag}={given[flag]}" for flag in PASSED_ON if flag in given))
    try:
        code: int = options.command(kubectl, options)
        sys.stdout.flush()
    except KubectlError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    cluster = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    cluster.add_argument("-n", "--namespace", help="default: the context's")
    cluster.add_argument("--context", help="default: the kubeconfig's current one")
    cluster.add_argument("--kubeconfig", help="default: as for kubectl")

    parser = Parser(
        prog="kubectl tuneyard", description="FineTuneJobs and ModelServers on one screen.", parents=[cluster]
    )
    parser.add_argument("--version", action="version", version=f"kubectl-tuneyard {version('tuneyard-cli')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    look = commands.add_parser(
        "status", parents=[cluster], help="its stages and progress, why it waits or failed, its artifacts"
    )
    which = look.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", help="of a FineTuneJob or a ModelServer; without it a table of all")
    which.add_argument("-A", "--all-namespaces", action="store_true", help="the table of all namespaces")
    look.set_defaults(command=_status)

    logs = commands.add_parser("logs", parents=[cluster], help="the logs of all its stages, in order")
    logs.add_argument("name", help="of a FineTuneJob")
    logs.add_argument("--stage", choices=list(STAGES), help="only this stage's")
    logs.add_argument("-f", "--follow", action="store_true", help="from stage to stage, until it has ended")
    logs.set_defaults(command=_logs)

    wait = commands.add_parser(
        "wait", parents=[cluster], help="until it has ended; exits with 0 succeeded, 1 failed, 2 not ended in time"
    )
    wait.add_argument("name", help="of a FineTuneJob")
    wait.add_argument(
        "--timeout", type=_seconds, default=math.inf, help="90s, 10m, 1h30m; default: as long as it takes"
    )
    wait.set_defaults(command=_wait)

    report = commands.add_parser("report", parents=[cluster], help="its evaluation, to paste into a pull request")
    report.add_argument("name", help="of a FineTuneJob")
    report.add_argument("-o", "--output", choices=["md", "json"], default="md", help="default: %(default)s")
    report.set_defaults(command=_report)
    return parser


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _status(kubectl: Kubectl, options: argparse.Namespace) -> int:
    console, now = screen.console(), datetime.now(UTC)
    if options.name is None:
        where = ["--all-namespaces"] if options.all_namespaces else []
        jobs, servers = (kubectl.find_all(kind, *where) for kind in (FINE_TUNE_JOBS, MODEL_SERVERS))
        console.print(render_list(jobs, servers, now))
        return DONE
    job, server = (kubectl.find(kind, options.name) for kind in (FINE_TUNE_JOBS, MODEL_SERVERS))
    shown = [render_job(job, now)] if job else []
    shown += [render_server(server)] if server else []
    if not shown:
        raise NotFound(f'there is no FineTuneJob and no ModelServer "{options.name}" in this namespace')
    for number, part in enumerate(shown):
        if number:
            console.print()
        console.print(part)
    return DONE


def _job(kubectl: Kubectl, name: str) -> Json:
    job = kubectl.find(FINE_TUNE_JOBS, name)
    if job is None:
        raise NotFound(f'there is no FineTuneJob "{name}" in this namespace')
    return job


def _logs(kubectl: Kubectl, options: argparse.Namespace) -> int:
    job = _job(kubectl, options.name)
    wanted = [options.stage] if options.stage else list(STAGES)
    if options.follow:
        follow_logs(kubectl, options.name, wanted, _write)
    elif not print_logs(kubectl, job, wanted, _write):
        sys.stderr.write("\n".join(["There is no log: no pod has started, or it is gone.", *why(job)]) + "\n")
    return DONE


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _wait(kubectl: Kubectl, options: argparse.Namespace) -> int:
    console = screen.console()
    try:
        with shown_on(console) as show:
            job = wait_for_end(lambda: _job(kubectl, options.name), options.timeout, show)
    except TimeoutError:
        console.print(render_job(_job(kubectl, options.name), datetime.now(UTC)))
        sys.stderr.write("It has not ended in time.\n")
        return TIMED_OUT
    console.print(render_job(job, datetime.now(UTC)))
    return DONE if is_condition_true(job, "Succeeded") else FAILED


def _report(kubectl: Kubectl, options: argparse.Namespace) -> int:
    job = _job(kubectl, options.name)
    report = evaluation_report(job)
    if report is None:
        phase = status(job).get("phase", "Pending")
        raise KubectlError("\n".join([f"There is no evaluation yet: the job is {phase}.", *why(job)]))
    _write(markdown(report) if options.output == "md" else json.dumps(report, indent=2) + "\n")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
