"""A ModelServer on one screen: what is served, what is rolled out, what has failed. Pure functions."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from tuneyard_cli import screen
from tuneyard_cli.advice import OUTDATED, UNOBSERVED
from tuneyard_cli.objects import (
    Json,
    condition,
    is_condition_true,
    is_observed,
    name,
    namespace,
    reason_and_message,
    status,
)


def render_server(server: Json) -> RenderableType:
    title = Text.assemble(
        (f"ModelServer {namespace(server)}/{name(server)}", "bold"), "  ", screen.state(state(server))
    )
    parts: list[RenderableType] = [title]
    if rows := list(_facts(server)):
        parts += [Text(), screen.facts(rows)]
    if lines := trouble(server):
        parts += [Text(), *(Text(line) for line in lines)]
    return Group(*parts)


def state(server: Json) -> str:
    """One word: Pending until a revision is served, then Available, Degraded or Unavailable."""
    if is_condition_true(server, "Available"):
        return "Degraded" if is_condition_true(server, "Degraded") else "Available"
    if is_condition_true(server, "Degraded"):
        return "Unavailable"
    return "Unavailable" if "served" in status(server) else "Pending"


def rollout(server: Json) -> str:
    """The revision that is rolled out, or why none is; empty when the wanted one is served."""
    progressing = condition(server, "Progressing")
    if progressing.get("status") == "True":
        return str(progressing["message"])
    if is_condition_true(server, "Degraded") or progressing.get("reason") == "Completed":
        return ""
    return reason_and_message(progressing)


def trouble(server: Json) -> list[str]:
    """What has failed or prevents serving, and what to do; nothing twice."""
    if not status(server):
        return [UNOBSERVED]
    outdated = [] if is_observed(server) else [OUTDATED]
    degraded, available = condition(server, "Degraded"), condition(server, "Available")
    lines = []
    if degraded.get("status") == "True":
        lines.append(f"Failed: {reason_and_message(degraded)}")
        if available.get("status") == "True":
            lines.append("The previous revision is still served.")
    elif available.get("status") == "False" and reason_and_message(available) != rollout(server):
        lines.append(f"Not available: {reason_and_message(available)}")
    return [*outdated, *lines]


def _facts(server: Json) -> Iterator[tuple[str, RenderableType]]:
    here = status(server)
    if url := here.get("url"):
        yield "URL", url
    if served := here.get("served"):
        yield "Served", revision_text(served)
        yield "", served["digest"]
        yield "Replicas", f"{here.get('readyReplicas', 0)} of {here.get('replicas', 0)} ready"
    if rolled_out := rollout(server):
        yield "Rollout", rolled_out
    if failed := here.get("failed"):
        yield "Failed", f"revision {failed['revision']}"
        yield "", failed["digest"]
    if previous := here.get("previous"):
        yield "Previous", revision_text(previous)


def revision_text(revision: Json) -> str:
    parts = [f"revision {revision['revision']}", revision.get("format"), revision.get("uri")]
    return ", ".join(filter(None, parts))
