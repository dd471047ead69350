"""What each command does; main.py calls them by their names."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final

from tuneyard_api.names import ANNOTATION_RETRY
from tuneyard_api.stages import STAGES
from tuneyard_cli import screen
from tuneyard_cli.job import why
from tuneyard_cli.kubectl import FINE_TUNE_JOBS, MODEL_SERVERS, Kubectl, KubectlError, NotFound
from tuneyard_cli.listing import render_list
from tuneyard_cli.logs import Lines, follow_logs, print_logs
from tuneyard_cli.objects import Json, is_server, name, status
from tuneyard_cli.parser import FAILED
from tuneyard_cli.report import evaluation_report, markdown
from tuneyard_cli.server import trouble
from tuneyard_cli.serverlogs import CONTAINERS, follow_server_logs, print_server_logs
from tuneyard_cli.view import render, succeeded, summary
from tuneyard_cli.waiting import shown_on, wait_for_end

DONE: Final = 0
TIMED_OUT: Final = 2

Command = Callable[[Kubectl, argparse.Namespace], int]
# What may stand before a name, as in kubectl.
PREFIXES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("ftj", "finetunejob", "finetunejobs"), FINE_TUNE_JOBS),
    **dict.fromkeys(("ms", "modelserver", "modelservers"), MODEL_SERVERS),
}


def find(kubectl: Kubectl, text: str, kinds: tuple[str, ...] = (FINE_TUNE_JOBS, MODEL_SERVERS)) -> list[Json]:
    """The FineTuneJob and the ModelServer of that name: one of them, or both, in this order.

    Raises:
        NotFound: there is none.
    """
    prefix, _, rest = text.rpartition("/")
    if prefix and prefix not in PREFIXES:
        raise KubectlError(f"{text}: write ftj/NAME or ms/NAME, or the name alone")
    wanted = [kind for kind in kinds if not prefix or PREFIXES[prefix] == kind]
    found = [obj for kind in wanted if (obj := kubectl.find(kind, rest))]
    if not found:
        words = {FINE_TUNE_JOBS: "no FineTuneJob", MODEL_SERVERS: "no ModelServer"}
        raise NotFound(f'there is {" and ".join(words[kind] for kind in wanted or kinds)} "{rest}" in this namespace')
    return found


def show(options: argparse.Namespace, *found: Json) -> None:
    """The objects as text, or as JSON: one document for one object, otherwise a list."""
    if options.output == "json":
        shown = [summary(obj) for obj in found]
        print(json.dumps(shown[0] if len(shown) == 1 else shown, indent=2))
        return
    console, now = screen.console(), datetime.now(UTC)
    for number, obj in enumerate(found):
        if number:
            console.print()
        console.print(render(obj, now))


def status_(kubectl: Kubectl, options: argparse.Namespace) -> int:
    if options.name is not None:
        show(options, *find(kubectl, options.name))
        return DONE
    where = ["--all-namespaces"] if options.all_namespaces else []
    jobs, servers = (kubectl.find_all(kind, *where) for kind in (FINE_TUNE_JOBS, MODEL_SERVERS))
    if options.output == "json":
        print(json.dumps([summary(obj) for obj in [*jobs, *servers]], indent=2))
    else:
        screen.console().print(render_list(jobs, servers, datetime.now(UTC)))
    return DONE


def logs(kubectl: Kubectl, options: argparse.Namespace) -> int:
    obj = find(kubectl, options.name)[0]
    lines = Lines(_write, as_json=options.output == "json")
    if is_server(obj):
        return _server_logs(kubectl, obj, options, lines)
    wanted = [options.stage] if options.stage else list(STAGES)
    if options.follow:
        follow_logs(kubectl, name(obj), wanted, lines)
    elif not print_logs(kubectl, obj, wanted, lines):
        sys.stderr.write("\n".join(["There is no log: no pod has started, or it is gone.", *why(obj)]) + "\n")
    return DONE


def _server_logs(kubectl: Kubectl, server: Json, options: argparse.Namespace, lines: Lines) -> int:
    if options.follow:
        follow_server_logs(kubectl, name(server), options.container or "engine", lines)
        return DONE
    wanted = [options.container] if options.container else CONTAINERS
    if not print_server_logs(kubectl, name(server), wanted, lines):
        sys.stderr.write("\n".join(["There is no log: no replica has started.", *trouble(server)]) + "\n")
    return DONE


def _write(text: str) -> None:
    print(text, end="", flush=True)


def wait(kubectl: Kubectl, options: argparse.Namespace) -> int:
    deadline = time.monotonic() + options.timeout
    results = []
    for obj in find(kubectl, options.name):
        read = partial(_read, kubectl, MODEL_SERVERS if is_server(obj) else FINE_TUNE_JOBS, name(obj))
        try:
            with shown_on(screen.console(sys.stderr if options.output == "json" else None)) as watch:
                results.append(wait_for_end(read, deadline - time.monotonic(), watch))
        except TimeoutError:
            show(options, *results, read())
            sys.stderr.write("It has not ended in time.\n")
            return TIMED_OUT
        if not succeeded(results[-1]):
            break
    show(options, *results)
    return DONE if succeeded(results[-1]) else FAILED


def _read(kubectl: Kubectl, kind: str, called: str) -> Json:
    obj = kubectl.find(kind, called)
    if obj is None:
        raise NotFound(f'there is no {kind.partition(".")[0]} "{called}" in this namespace')
    return obj


def report(kubectl: Kubectl, options: argparse.Namespace) -> int:
    (job,) = find(kubectl, options.name, (FINE_TUNE_JOBS,))
    found = evaluation_report(job)
    if found is None:
        phase = status(job).get("phase", "Pending")
        raise KubectlError("\n".join([f"There is no evaluation yet: the job is {phase}.", *why(job)]))
    _write(markdown(found) if options.output == "md" else json.dumps(found, indent=2) + "\n")
    return DONE


def suspend(kubectl: Kubectl, options: argparse.Namespace, *, value: bool = True) -> int:
    (job,) = find(kubectl, options.name, (FINE_TUNE_JOBS,))
    kubectl.patch(FINE_TUNE_JOBS, name(job), {"spec": {"suspend": value}})
    return _told(options, [job], "suspended: the running stage writes a checkpoint" if value else "resumed")


def resume(kubectl: Kubectl, options: argparse.Namespace) -> int:
    return suspend(kubectl, options, value=False)


def retry(kubectl: Kubectl, options: argparse.Namespace) -> int:
    """Writes an annotation, which GitOps tools leave alone, and not the spec."""
    found = find(kubectl, options.name)
    failed = [obj for obj in found if succeeded(obj) is False]
    if not failed:
        raise KubectlError(f'"{options.name}" has not failed: there is nothing to try again')
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    for obj in failed:
        kind = MODEL_SERVERS if is_server(obj) else FINE_TUNE_JOBS
        kubectl.patch(kind, name(obj), {"metadata": {"annotations": {ANNOTATION_RETRY: at}}})
    return _told(options, failed, "tried again")


def _told(options: argparse.Namespace, found: list[Json], what: str) -> int:
    for obj in found:
        told = {"kind": obj["kind"], "namespace": obj["metadata"]["namespace"], "name": name(obj), "done": what}
        print(json.dumps(told) if options.output == "json" else f"{obj['kind']} {name(obj)} {what}")
    return DONE


COMMANDS: Final[Mapping[str, Command]] = {
    "status": status_,
    "logs": logs,
    "wait": wait,
    "report": report,
    "suspend": suspend,
    "resume": resume,
    "retry": retry,
}
