"""Reads objects of the API server, as plain dicts: an operator newer than this command may write more."""

from typing import Any

Json = dict[str, Any]


def name(obj: Json) -> str:
    return str(obj["metadata"]["name"])


def namespace(obj: Json) -> str:
    return str(obj["metadata"]["namespace"])


def is_server(obj: Json) -> bool:
    return bool(obj["kind"] == "ModelServer")


def status(obj: Json) -> Json:
    found: Json = obj.get("status", {})
    return found


def is_observed(obj: Json) -> bool:
    """Whether the status is about the current spec."""
    return bool(status(obj).get("observedGeneration") == obj["metadata"].get("generation"))


def condition(obj: Json, kind: str) -> Json:
    """The condition of that type, or an empty dict."""
    return next((found for found in status(obj).get("conditions", []) if found["type"] == kind), {})


def is_condition_true(obj: Json, kind: str) -> bool:
    return condition(obj, kind).get("status") == "True"


def reason_and_message(part: Json) -> str:
    """Of a condition, or of a stage's last failure."""
    return ": ".join(filter(None, (part.get("reason"), part.get("message"))))


def has_ended(job: Json) -> bool:
    return is_observed(job) and (is_condition_true(job, "Succeeded") or is_condition_true(job, "Failed"))


def stages(job: Json) -> list[Json]:
    """The stages of a FineTuneJob's chain, in order; empty before the operator has observed it."""
    found: list[Json] = status(job).get("stages", [])
    return found


def is_done(stage: Json) -> bool:
    return stage["state"] in ("Succeeded", "Adopted")


def current_stage(job: Json) -> Json | None:
    """The first stage that is not done."""
    return next((stage for stage in stages(job) if not is_done(stage)), None)
