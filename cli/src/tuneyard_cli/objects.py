"""Reading objects of the API server, as plain dicts: an operator newer than this command may say more."""

from typing import Any

from tuneyard_api.names import STAGES

Json = dict[str, Any]


def name(thing: Json) -> str:
    return str(thing["metadata"]["name"])


def namespace(thing: Json) -> str:
    return str(thing["metadata"]["namespace"])


def status(thing: Json) -> Json:
    found: Json = thing.get("status", {})
    return found


def is_seen(thing: Json) -> bool:
    """The status is about the spec as it is now."""
    return bool(status(thing).get("observedGeneration") == thing["metadata"].get("generation"))


def condition(thing: Json, kind: str) -> Json:
    """The condition of that type, or an empty one."""
    return next((each for each in status(thing).get("conditions", []) if each["type"] == kind), {})


def is_condition_true(thing: Json, kind: str) -> bool:
    return condition(thing, kind).get("status") == "True"


def says(told: Json) -> str:
    """Reason and message, of a condition for example."""
    return ": ".join(filter(None, (told.get("reason"), told.get("message"))))


def has_ended(job: Json) -> bool:
    return is_seen(job) and (is_condition_true(job, "Succeeded") or is_condition_true(job, "Failed"))


def stages(job: Json) -> list[Json]:
    """Of a FineTuneJob, all of them, in their order."""
    listed = {each["name"]: each for each in status(job).get("stages", [])}
    return [listed.get(stage, {"name": stage, "state": "Pending"}) for stage in STAGES]


def is_done(stage: Json) -> bool:
    return stage["state"] in ("Succeeded", "Adopted")


def current_stage(job: Json) -> Json | None:
    """The first that is not done."""
    return next((each for each in stages(job) if not is_done(each)), None)
