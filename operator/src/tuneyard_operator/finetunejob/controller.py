"""Observes a FineTuneJob: its Jobs, their pods, and the progress of the running stage."""

from datetime import datetime
from functools import partial
from typing import Final

from pydantic import ValidationError

from tuneyard_api import names, reasons
from tuneyard_api.contracts.progress import ProgressReport
from tuneyard_api.kinds.finetunejob import FINE_TUNE_JOB
from tuneyard_api.runs import revision
from tuneyard_operator.finetunejob import metrics
from tuneyard_operator.finetunejob.observe import World, is_suspended, own_jobs, pods_wanted, running_pod_ip
from tuneyard_operator.finetunejob.plan import plan
from tuneyard_operator.machinery.conditions import Condition, defect_message, parse_time, with_condition
from tuneyard_operator.machinery.controller import Context, Controller, Index, Owns, StateGauge, Watches
from tuneyard_operator.machinery.http import JsonReader
from tuneyard_operator.machinery.objects import Json, is_condition_true, key_of, owned_by, uid
from tuneyard_operator.machinery.resources import CONFIG_MAP, JOB, POD, RESOURCE_QUOTA, SERVICE, Resource
from tuneyard_operator.pods import quotas
from tuneyard_operator.settings import Settings

POD_SECONDS: Final = 5  # a Job that has no pod by then is asked why


async def observe(job: Json, context: Context) -> World:
    cluster, key = context.cache, key_of(job)
    world = World(
        job=job,
        revision=revision(job),
        jobs=cluster.children("Job", key),
        pods=cluster.children("Pod", key),
        services=cluster.children("Service", key),
        since_write=context.since_write,
        idle=cluster.seconds_since_last_event(key),
    )
    return world._replace(warnings=_warnings(context, world), progress=await _progress(context.http, world))


def _warnings(context: Context, world: World) -> dict[str, str]:
    """Why Jobs have no pods, by the Jobs' uids: only events report admission and quotas."""
    lacking = [job for job in own_jobs(world) if _lacks_pod(job, world.pods, context.now)]
    return {uid(job): context.cache.warning(uid(job)) for job in lacking}


def _lacks_pod(job: Json, pods: list[Json], now: datetime) -> bool:
    age = (now - parse_time(job["metadata"]["creationTimestamp"])).total_seconds()
    finished = is_condition_true(job, "Complete") or is_condition_true(job, "Failed")
    count = sum(owned_by(pod, uid(job)) for pod in pods)
    return not finished and not is_suspended(job) and age > POD_SECONDS and count < pods_wanted(job)


async def _progress(http: JsonReader, world: World) -> ProgressReport | None:
    """The progress of the running stage; None where no stage runs, or it does not answer."""
    address = running_pod_ip(world)
    if not address:
        return None
    host = f"[{address}]" if ":" in address else address
    answer = await http.get_json(f"http://{host}:{names.PROGRESS_PORT}/progress")
    try:
        return ProgressReport.model_validate(answer) if answer else None
    except ValidationError:  # an image of another version
        return None


def without_template(job: Json) -> Json:
    """A Job of a FineTuneJob without the template of its pods, which no plan reads: three quarters of it."""
    if names.LABEL_FINETUNEJOB not in job["metadata"].get("labels", {}):
        return job
    return job | {"spec": {field: value for field, value in job["spec"].items() if field != "template"}}


def phase(job: Json) -> str:
    return str(job.get("status", {}).get("phase", "Pending"))


def defect(job: Json, error: Exception, now: datetime) -> Json:
    found = Condition("Succeeded", False, reasons.INTERNAL_ERROR, defect_message(error))
    return with_condition(job, found, now) | {"reason": found.reason}


KIND: Final = Resource(names.API_VERSION, FINE_TUNE_JOB.kind, FINE_TUNE_JOB.plural)

CONTROLLER: Final[Controller[World, Settings]] = Controller(
    kind=KIND,
    verbs=("delete",),  # ttlSecondsAfterFinished
    owner_label=names.LABEL_FINETUNEJOB,
    owns=(
        Owns(JOB, verbs=("create", "delete"), labels=names.MANAGED_SELECTOR, warnings=True, trim=without_template),
        Owns(POD, labels=names.MANAGED_SELECTOR, warnings=True),
        Owns(SERVICE, verbs=("create", "patch"), labels=names.MANAGED_SELECTOR),
        Owns(CONFIG_MAP, verbs=("create", "patch"), cached=False),
    ),
    state=StateGauge("tuneyard_finetunejobs", "FineTuneJobs by phase", "phase", phase),
    observe=observe,
    plan=plan,
    watches=(Watches(RESOURCE_QUOTA, partial(quotas.waiting_objects, KIND), trim=quotas.trim),),
    indexes=(Index(KIND, quotas.waits_for_quota),),
    measure=metrics.measure,
    defect=defect,
)
