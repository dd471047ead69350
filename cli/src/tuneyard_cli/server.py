"""A ModelServer at one look: what is served, what is coming, what has failed. Pure functions."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from tuneyard_cli import screen
from tuneyard_cli.advice import OUTDATED, UNSEEN, advice_on
from tuneyard_cli.objects import Json, condition, is_condition_true, is_seen, name, namespace, says, status


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
    """One word: Pending until a revision was seen, then Available, Degraded or Unavailable."""
    if is_condition_true(server, "Available"):
        return "Degraded" if is_condition_true(server, "Degraded") else "Available"
    if is_condition_true(server, "Degraded"):
        return "Unavailable"
    return "Unavailable" if "served" in status(server) else "Pending"


def coming(server: Json) -> str:
    """The revision that comes up, or why none does; empty when the wanted one is served."""
    progressing = condition(server, "Progressing")
    if progressing.get("status") == "True":
        return str(progressing["message"])
    if is_condition_true(server, "Degraded") or progressing.get("reason") == "Completed":
        return ""
    return says(progressing)


def trouble(server: Json) -> list[str]:
    """What has failed or keeps it from serving, and what to do; each thing once."""
    if not status(server):
        return [UNSEEN]
    outdated = [] if is_seen(server) else [OUTDATED]
    degraded, available = condition(server, "Degraded"), condition(server, "Available")
    lines = []
    if degraded.get("status") == "True":
        lines.append(f"Failed: {says(degraded)}")
        if available.get("status") == "True":
            lines.append("What was served before goes on being served.")
    elif available.get("status") == "False" and says(available) != coming(server):
        lines.append(f"Not available: {says(available)}")
    return [*outdated, *lines, *advice_on(" ".join([*lines, coming(server)]))]


def _facts(server: Json) -> Iterator[tuple[str, RenderableType]]:
    here = status(server)
    if url := here.get("url"):
        yield "URL", url
    if served := here.get("served"):
        yield "Served", revision_text(served)
        yield "", served["digest"]
        yield "Replicas", f"{here.get('readyReplicas', 0)} of {here.get('replicas', 0)} ready"
    if next_one := coming(server):
        yield "Coming", next_one
    if failed := here.get("failed"):
        yield "Failed", f"revision {failed['revision']}"
        yield "", failed["digest"]
    if previous := here.get("previous"):
        yield "Before", revision_text(previous)


def revision_text(revision: Json) -> str:
    parts = [f"revision {revision['revision']}", revision.get("format"), revision.get("uri")]
    return ", ".join(filter(None, parts))
