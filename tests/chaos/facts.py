"""What the objects in a history say, read without the operator's own eyes where that is possible."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Final, NamedTuple

from chaos.watching import Record
from tuneyard_api import names

Json = dict[str, Any]

CONDITION_OF: Final = {
    "prepare": "DatasetReady",
    "train": "Trained",
    "export": "Exported",
    "evaluate": "Evaluated",
    "publish": "Published",
}


class Run(NamedTuple):
    """One generation of one FineTuneJob, as its children carry it."""

    namespace: str
    job: str
    revision: str


def moments(history: Iterable[Record]) -> Iterator[list[Record]]:
    """Records that happened together: what a lost stream has missed is told at once."""
    return (list(group) for _, group in groupby(history, key=lambda record: record.order))


def uid(thing: Json) -> str:
    return str(thing["metadata"]["uid"])


def name(thing: Json) -> str:
    return str(thing["metadata"]["name"])


def label(thing: Json, key: str) -> str:
    return str(thing["metadata"].get("labels", {}).get(key, ""))


def owner(thing: Json) -> Json:
    """The controller's reference, or an empty dict."""
    owners = thing["metadata"].get("ownerReferences", [])
    return next((each for each in owners if each.get("controller")), {})


def true_conditions(thing: Json) -> dict[str, str]:
    """Reasons by type."""
    listed = thing.get("status", {}).get("conditions", [])
    return {each["type"]: each.get("reason", "") for each in listed if each["status"] == "True"}


def run_of_child(child: Json) -> Run:
    namespace = child["metadata"]["namespace"]
    return Run(namespace, label(child, names.LABEL_FINETUNEJOB), label(child, names.LABEL_REVISION))


def run_of_status(job: Json) -> Run:
    """The run that the status is about: the spec may have changed since."""
    return Run(job["metadata"]["namespace"], name(job), job.get("status", {}).get("revision", ""))


def stage_of(child: Json) -> str:
    return label(child, names.LABEL_STAGE)


def stage_states(job: Json) -> dict[str, str]:
    return {each["name"]: each["state"] for each in job.get("status", {}).get("stages", [])}


def container_state(pod: Json) -> Json:
    """Of the stage's container."""
    listed = pod.get("status", {}).get("containerStatuses", [])
    return dict(listed[0].get("state", {})) if listed else {}


def is_running(pod: Json) -> bool:
    return "running" in container_state(pod)


def exit_code(pod: Json) -> int | None:
    ended = container_state(pod).get("terminated")
    return int(ended["exitCode"]) if ended else None


def last_words(pod: Json) -> Json:
    """The termination message, or an empty dict."""
    try:
        words: Json = json.loads(container_state(pod)["terminated"]["message"])
    except (KeyError, ValueError):
        return {}
    return words


def digest_of(pod: Json) -> str:
    """Of the stage that the pod runs: it was given it, or, for prepare, says it at its end."""
    (container,) = pod["spec"]["containers"]
    given = next((each["value"] for each in container.get("env", []) if each["name"] == names.ENV_DIGESTS), "")
    digests = json.loads(given) if given else (last_words(pod).get("result") or {}).get("digests", {})
    return str(digests.get(stage_of(pod), ""))


def is_ready(pod: Json) -> bool:
    return "Ready" in true_conditions(pod) and "deletionTimestamp" not in pod["metadata"]


class Alive:
    """The objects that exist at a moment, as they are then."""

    def __init__(self) -> None:
        self.things: dict[str, tuple[str, Json]] = {}

    def take(self, record: Record) -> None:
        if record.type == "DELETED":
            self.things.pop(uid(record.object), None)
        else:
            self.things[uid(record.object)] = (record.kind, record.object)

    def of(self, kind: str) -> list[Json]:
        return [thing for its, thing in self.things.values() if its == kind]


def at_the_end(history: Iterable[Record]) -> Alive:
    alive = Alive()
    for record in history:
        alive.take(record)
    return alive
