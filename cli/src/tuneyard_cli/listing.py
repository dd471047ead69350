"""All FineTuneJobs and ModelServers as tables. Pure functions."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuneyard_cli import screen, server
from tuneyard_cli.durations import since
from tuneyard_cli.job import progress_of
from tuneyard_cli.objects import Json, condition, current_stage, is_condition_true, name, namespace, status


def render_list(jobs: Sequence[Json], servers: Sequence[Json], now: datetime) -> RenderableType:
    """One table for each kind that has objects."""
    tables = [_jobs(jobs, now)] if jobs else []
    tables += [_servers(servers, now)] if servers else []
    if not tables:
        return Text("No FineTuneJobs and no ModelServers here. -A shows all namespaces.")
    return Group(*(part for table in tables for part in (table, Text()))) if len(tables) > 1 else tables[0]


def _jobs(jobs: Sequence[Json], now: datetime) -> Table:
    table = screen.table("NAMESPACE", "FINETUNEJOB", "PHASE", "ROWS KEPT", "RECOMMENDED", "AGE", "")
    for job in sorted(jobs, key=_place):
        phase = status(job).get("phase", "Pending")
        recommended = status(job).get("recommended", {}).get("format", "")
        table.add_row(*_place(job), screen.state(phase), rows_kept(job), recommended, _age(job, now), note(job))
    return table


def rows_kept(job: Json) -> str:
    """Of the rows that were read, for example 1845/2149."""
    dataset = status(job).get("dataset")
    return f"{dataset['rowsKept']}/{dataset['rowsIn']}" if dataset else ""


def note(job: Json) -> str:
    """Why the job failed or waits, or its progress."""
    if is_condition_true(job, "Failed"):
        return str(condition(job, "Failed")["reason"])
    stage = current_stage(job)
    if stage is None:
        return ""
    if stage["state"] == "Running" and (progress := progress_of(job)):
        return progress
    return str(stage.get("message", ""))


def _servers(servers: Sequence[Json], now: datetime) -> Table:
    table = screen.table("NAMESPACE", "MODELSERVER", "STATE", "SERVED", "READY", "AGE", "")
    for item in sorted(servers, key=_place):
        here = status(item)
        served = here.get("served", {})
        ready = f"{here.get('readyReplicas', 0)}/{here['replicas']}" if "replicas" in here else ""
        shown = served.get("format") or served.get("revision", "")
        remark = server.rollout(item) or "".join(server.trouble(item)[:1])
        table.add_row(*_place(item), screen.state(server.state(item)), shown, ready, _age(item, now), remark)
    return table


def _place(obj: Json) -> tuple[str, str]:
    return namespace(obj), name(obj)


def _age(obj: Json, now: datetime) -> str:
    return since(obj["metadata"]["creationTimestamp"], now)
