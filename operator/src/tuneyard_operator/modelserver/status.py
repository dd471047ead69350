"""The status of a ModelServer."""

from datetime import datetime
from typing import Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_operator.machinery.conditions import Condition, conditions
from tuneyard_operator.machinery.objects import Json, condition_in, generation, name, namespace
from tuneyard_operator.modelserver.artifact import Artifact, Missing, artifact_of
from tuneyard_operator.modelserver.children import selector
from tuneyard_operator.modelserver.observe import BAD_ARTIFACT, Seen, World, see

ROLLING_OUT: Final = "RollingOut"
SERVING: Final = "Serving"
NOT_READY: Final = "NotReady"
SCALED_TO_ZERO: Final = "ScaledToZero"
VERIFIED: Final = "Verified"


class Failed(NamedTuple):
    """Why a revision does not come up."""

    revision: str
    digest: str
    reason: str
    message: str

    def wire(self) -> Json:
        return dict(self._asdict())


class Rollout(NamedTuple):
    """Where the rollout stands, after this plan."""

    target: str | None
    release: Artifact | None  # what the target serves
    missing: Missing | None  # why it is an earlier one, or none
    served: str | None
    traffic: str | None  # where the Service points to
    failed: Failed | None
    taken_back: Failed | None  # what was scaled to zero, because another one serves


def write_status(world: World, rollout: Rollout, now: datetime) -> Json:
    """The whole status."""
    server, before = world.server, world.server.get("status", {})
    here = generation(server)
    serving = see(world, rollout.served or rollout.target)
    status: Json = {
        "observedGeneration": here,
        "url": f"http://{name(server)}.{namespace(server)}.svc",
        "replicas": serving.replicas if serving else 0,
        "readyReplicas": serving.ready_replicas if serving else 0,
        "conditions": conditions(_said(world, rollout, serving), before.get("conditions", []), here, now),
    }
    if release := rollout.release.wire() if rollout.release else before.get("release"):
        status["release"] = release
    if served := _served(world, rollout):
        status["served"] = served
    if previous := _previous(before, status.get("served")):
        status["previous"] = previous
    if rollout.taken_back:
        status["failed"] = rollout.taken_back.wire()
    if revision := rollout.served or rollout.target:
        status["selector"] = ",".join(f"{key}={value}" for key, value in sorted(selector(server, revision).items()))
    return status


def _served(world: World, rollout: Rollout) -> Json | None:
    seen = see(world, rollout.served)
    if seen is None:
        return None
    wanted = rollout.release if rollout.served == rollout.target else None
    artifact = wanted or artifact_of(seen.deployment)
    entry = {
        "revision": rollout.served,
        "digest": artifact.digest,
        "format": artifact.format,
        "uri": artifact.uri,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _previous(before: Json, served: Json | None) -> Json | None:
    """What was served before what is served now."""
    last: Json | None = before.get("served")
    changed = last and served and last["revision"] != served["revision"]
    return last if changed else before.get("previous")


def _said(world: World, rollout: Rollout, serving: Seen | None) -> list[Condition]:
    said = [_available(world, rollout, serving), _progressing(world, rollout)]
    if rollout.failed:
        said.append(Condition("Degraded", True, rollout.failed.reason, rollout.failed.message))
    return [*said, *_verified(world, rollout)]


def _available(world: World, rollout: Rollout, serving: Seen | None) -> Condition:
    if serving and serving.ready_replicas and rollout.served and rollout.traffic == rollout.served:
        return Condition(
            "Available", True, SERVING, f"{serving.ready_replicas} of {serving.replicas} replicas are ready"
        )
    if rollout.failed and rollout.failed != rollout.taken_back:
        return Condition("Available", False, rollout.failed.reason, rollout.failed.message)
    if rollout.missing and rollout.served is None and rollout.target is None:
        return Condition("Available", False, *rollout.missing)
    if world.server["spec"].get("replicas") == 0:
        return Condition("Available", False, SCALED_TO_ZERO, "spec.replicas is 0")
    trouble = f"{serving.trouble.reason}: {serving.trouble.text}" if serving and serving.trouble else ""
    waits = f"no replica of revision {rollout.served or rollout.target} is ready"
    return Condition("Available", False, NOT_READY, trouble or (serving.message if serving else "") or waits)


def _progressing(world: World, rollout: Rollout) -> Condition:
    if rollout.missing and rollout.target in (None, rollout.served):
        return Condition("Progressing", False, *rollout.missing)
    if rollout.target == rollout.served:
        return Condition("Progressing", False, reasons.COMPLETED, f"revision {rollout.served} is served")
    if rollout.failed:
        return Condition("Progressing", False, rollout.failed.reason, rollout.failed.message)
    seen = see(world, rollout.target)
    detail = f": {seen.message}" if seen and seen.message else ""
    return Condition("Progressing", True, ROLLING_OUT, f"revision {rollout.target} is coming up{detail}")


def _verified(world: World, rollout: Rollout) -> list[Condition]:
    """About the wanted artifact where something is known of it, else about the served one."""
    seen = see(world, rollout.target)
    if seen and seen.trouble and seen.trouble.reason in BAD_ARTIFACT:
        return [Condition("ArtifactVerified", False, seen.trouble.reason, seen.trouble.text)]
    if rollout.failed and rollout.failed.reason in BAD_ARTIFACT:
        return [Condition("ArtifactVerified", False, rollout.failed.reason, rollout.failed.message)]
    if seen and seen.verified:
        return [Condition("ArtifactVerified", True, VERIFIED, artifact_of(seen.deployment).digest)]
    serving = see(world, rollout.served)
    if serving is None:
        return []
    digest = artifact_of(serving.deployment).digest
    before = condition_in(world.server.get("status", {}).get("conditions", []), "ArtifactVerified")
    known = (
        serving.verified or serving.ready_replicas or (before.get("status"), before.get("message")) == ("True", digest)
    )
    return [Condition("ArtifactVerified", True, VERIFIED, digest)] if known else []
