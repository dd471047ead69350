"""All FineTuneJobs and ModelServers as tables. Pure functions."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuneyard_cli import screen, server
from tuneyard_cli.durations import since
from tuneyard_cli.job import progress_text
from tuneyard_cli.objects import Json, condition, current_stage, is_condition_true, name, namespace, status


def render_list(jobs: Sequence[Json], servers: Sequence[Json], now: datetime) -> RenderableType:
    """A table for each kind that there is."""
    tables = [_jobs(jobs, now)] if jobs else []
    tables += [_servers(servers, now)] if servers else []
    if not tables:
        return Text("No FineTuneJobs and no ModelServers here. -A shows all namespaces.")
    return Group(*(part for table in tables for part in (table, Text()))) if len(tables) > 1 else tables[0]


def _jobs(jobs: Sequence[Json], now: datetime) -> Table:
    table = screen.table("NAMESPACE", "FINETUNEJOB", "PHASE", "RECOMMENDED", "AGE", "")
    for job in sorted(jobs, key=_place):
        phase = status(job).get("phase", "Pending")
        recommended = status(job).get("recommended", {}).get("format", "")
        table.add_row(*_place(job), screen.state(phase), recommended, _age(job, now), note(job))
    return table


def note(job: Json) -> str:
    """What there is to say in a few words."""
    if is_condition_true(job, "Failed"):
        return str(condition(job, "Failed")["reason"])
    stage = current_stage(job)
    if stage is None:
        return ""
    if stage["state"] == "Running" and (progress := status(job).get("progress")):
        return progress_text(progress)
    return str(stage.get("message", ""))


def _servers(servers: Sequence[Json], now: datetime) -> Table:
    table = screen.table("NAMESPACE", "MODELSERVER", "STATE", "SERVED", "READY", "AGE", "")
    for each in sorted(servers, key=_place):
        here = status(each)
        served = here.get("served", {})
        ready = f"{here.get('readyReplicas', 0)}/{here['replicas']}" if "replicas" in here else ""
        shown = served.get("format") or served.get("revision", "")
        said = server.coming(each) or "".join(server.trouble(each)[:1])
        table.add_row(*_place(each), screen.state(server.state(each)), shown, ready, _age(each, now), said)
    return table


def _place(thing: Json) -> tuple[str, str]:
    return namespace(thing), name(thing)


def _age(thing: Json, now: datetime) -> str:
    return since(thing["metadata"]["creationTimestamp"], now)
