"""A FineTuneJob or a ModelServer as text on one screen, as one line, and as JSON for programs. Pure functions."""

from datetime import datetime

from rich.console import RenderableType

from tuneyard_cli.job import render_job, why
from tuneyard_cli.objects import (
    Json,
    condition,
    current_stage,
    has_ended,
    is_condition_true,
    is_observed,
    is_server,
    name,
    namespace,
    status,
)
from tuneyard_cli.server import render_server, rollout, state, trouble


def render(obj: Json, now: datetime) -> RenderableType:
    return render_server(obj) if is_server(obj) else render_job(obj, now)


def line(obj: Json) -> str:
    """What it does, without the progress, which changes all the time."""
    if is_server(obj):
        return ": ".join(filter(None, (state(obj), rollout(obj) or "".join(trouble(obj)[:1]))))
    phase = str(status(obj).get("phase", "Pending"))
    stage = current_stage(obj)
    if stage is None:
        return phase
    return ": ".join(filter(None, (f"{phase}, {stage['name']} is {stage['state']}", stage.get("message"))))


def succeeded(obj: Json) -> bool | None:
    """Whether what the spec asks for is published, or served; None while that is not decided."""
    if not is_server(obj):
        return is_condition_true(obj, "Succeeded") if has_ended(obj) else None
    if not is_observed(obj):
        return None
    if is_condition_true(obj, "Degraded"):
        return False
    serves = is_condition_true(obj, "Available") or condition(obj, "Available").get("reason") == "ScaledToZero"
    return True if serves and not is_condition_true(obj, "Progressing") else None


def summary(obj: Json) -> Json:
    """For `-o json`: the same for both kinds, and the whole status."""
    return {
        "kind": obj["kind"],
        "namespace": namespace(obj),
        "name": name(obj),
        "state": state(obj) if is_server(obj) else status(obj).get("phase", "Pending"),
        "succeeded": succeeded(obj),
        "remarks": trouble(obj) if is_server(obj) else why(obj),
        "status": status(obj),
    }
