"""Observes a ModelServer: its Deployments, their pods, its Service, and the FineTuneJob that it follows."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from pydantic import ValidationError

from tuneyard_api import names, reasons
from tuneyard_api.contracts.serving import Speculation
from tuneyard_api.kinds.finetunejob import FINE_TUNE_JOB
from tuneyard_api.kinds.modelserver import MODEL_SERVER
from tuneyard_operator.machinery.cache import Reader, identity_only
from tuneyard_operator.machinery.conditions import Condition, defect_message, parse_time, with_condition
from tuneyard_operator.machinery.controller import Context, Controller, Index, Owns, StateGauge, Watches
from tuneyard_operator.machinery.http import JsonReader
from tuneyard_operator.machinery.objects import Json, Key, is_condition_true, key_of, label, name, namespace, uid
from tuneyard_operator.machinery.resources import (
    DEPLOYMENT,
    POD,
    POD_DISRUPTION_BUDGET,
    RESOURCE_QUOTA,
    SERVICE,
    Resource,
)
from tuneyard_operator.modelserver import turns
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.plan import plan
from tuneyard_operator.modelserver.speculation import guesses
from tuneyard_operator.pods import quotas
from tuneyard_operator.settings import Settings

ASKED_PODS: Final = 4  # how their guesses go, one after the other: all serve the same model to the same clients
POD_SECONDS: Final = 10  # a pod that has not started by then is asked why


async def observe(server: Json, context: Context) -> World:
    cluster, key = context.cache, key_of(server)
    pods = cluster.children("Pod", key)
    followed = followed_jobs(server)
    return World(
        server=server,
        deployments=cluster.children("Deployment", key),
        pods=pods,
        service=cluster.get("Service", namespace(server), name(server)),
        budget=next(iter(cluster.children("PodDisruptionBudget", key)), None),
        job=cluster.get(*followed[0]) if followed else None,
        warnings={uid(pod): cluster.warning(uid(pod)) for pod in pods if _hangs(pod, context.now)},
        speculation=await _speculation(context.http, server, pods),
        seconds_since_last_event=cluster.seconds_since_last_event(key),
        quotas=quotas.fingerprint(server, cluster),
        turn=turns.turn(server, cluster),
    )


async def _speculation(http: JsonReader, server: Json, pods: Sequence[Json]) -> Speculation | None:
    """The sum over some pods that are ready; None where none answers, or the server does not guess."""
    ready = [pod for pod in pods if guesses(server) and is_condition_true(pod, "Ready")]
    addresses = [address for pod in ready if (address := pod["status"].get("podIP"))]
    answers = [await http.get_json(_url(address)) for address in addresses[:ASKED_PODS]]
    found = [report for answer in answers if (report := _report(answer))]
    if not found:
        return None
    return Speculation(drafted=sum(each.drafted for each in found), accepted=sum(each.accepted for each in found))


def _url(address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{names.ENGINE_PORT}/speculation"


def _report(answer: Json | None) -> Speculation | None:
    try:
        return Speculation.model_validate(answer) if answer else None
    except ValidationError:  # an image of another version
        return None


def _hangs(pod: Json, now: datetime) -> bool:
    """Whether it is scheduled, but no container of it has started."""
    age = (now - parse_time(pod["metadata"]["creationTimestamp"])).total_seconds()
    return age > POD_SECONDS and is_condition_true(pod, "PodScheduled") and not pod.get("status", {}).get("podIP")


def followed_jobs(server: Json) -> list[Key]:
    """The FineTuneJobs whose releases a ModelServer serves."""
    reference = server.get("spec", {}).get("model", {}).get("fineTuneJobRef", {}).get("name")
    return [Key("FineTuneJob", namespace(server), reference)] if reference else []


def followers(job: Json, cluster: Reader) -> list[Key]:
    """The ModelServers that serve a FineTuneJob's releases."""
    return cluster.child_keys("ModelServer", key_of(job))


def waiting_for_name(service: Json, _: Reader) -> list[Key]:
    """The ModelServer that needs the name of a Service which is not the operator's."""
    return [] if _is_managed(service) else [Key("ModelServer", namespace(service), name(service))]


def trim_service(service: Json) -> Json:
    """Of a Service that is not the operator's only the name and the owner matter."""
    return service if _is_managed(service) else identity_only(service)


def _is_managed(child: Json) -> bool:
    return all(label(child, key) == value for key, value in names.MANAGED_BY.items())


def defect(server: Json, error: Exception, now: datetime) -> Json:
    found = Condition("Degraded", True, reasons.INTERNAL_ERROR, defect_message(error))
    return with_condition(server, found, now) | {"reason": found.reason}


def available(server: Json) -> str:
    return str(is_condition_true(server, "Available")).lower()


KIND: Final = Resource(names.API_VERSION, MODEL_SERVER.kind, MODEL_SERVER.plural)
FOLLOWED: Final = Resource(names.API_VERSION, FINE_TUNE_JOB.kind, FINE_TUNE_JOB.plural)

CONTROLLER: Final[Controller[World, Settings]] = Controller(
    kind=KIND,
    owner_label=names.LABEL_MODELSERVER,
    owns=(
        Owns(DEPLOYMENT, verbs=("create", "patch", "delete"), labels=names.MANAGED_SELECTOR),
        Owns(POD, labels=names.MANAGED_SELECTOR, warnings=True),
        Owns(SERVICE, verbs=("create", "patch")),
        Owns(POD_DISRUPTION_BUDGET, verbs=("create", "patch"), labels=names.MANAGED_SELECTOR),
    ),
    watches=(
        Watches(FOLLOWED, followers),
        # All Services: a ModelServer must not take over one that has its name and is not the operator's.
        Watches(SERVICE, waiting_for_name, trim=trim_service),
        Watches(RESOURCE_QUOTA, partial(quotas.waiting_objects, KIND), trim=quotas.trim),
    ),
    indexes=(
        Index(KIND, followed_jobs),
        Index(KIND, quotas.waits_for_quota),
        quotas.QUOTAS,
        Index(KIND, turns.upgrade),
    ),
    state=StateGauge("tuneyard_modelservers", "ModelServers that serve", "available", available),
    observe=observe,
    plan=plan,
    defect=defect,
)
