"""The children of a FineTuneJob: an immutable ConfigMap, one Job per stage, and a Service where several pods train."""

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from tuneyard_api import names
from tuneyard_api.base import SecretRef
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.names import Stage
from tuneyard_api.quantity import cpu_threads
from tuneyard_api.runs import run_spec
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob import nodes
from tuneyard_operator.machinery.objects import Json, name, namespace, owner_reference
from tuneyard_operator.pods import images, podspec
from tuneyard_operator.settings import Settings

CONTAINER: Final = "stage"

# Bad input is final; preemption is not charged; any other failure counts against backoffLimit.
FAILURE_POLICY: Final[list[Json]] = [
    {
        "action": "FailJob",
        "onExitCodes": {
            "containerName": CONTAINER,
            "operator": "In",
            "values": [names.EXIT_BAD_INPUT, names.EXIT_DOES_NOT_FIT],
        },
    },
    {
        "action": "Ignore",
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [names.EXIT_TRY_AGAIN]},
    },
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
]


def job_name(job: Json, stage: Stage, run: str) -> str:
    """The name of a stage's Job; `run` is the FineTuneJob's revision, as in all functions here."""
    return f"{name(job)}-{stage}-{run}"


def config_name(job: Json, run: str) -> str:
    return f"{name(job)}-{run}"


def labels(job: Json, run: str, stage: Stage | None = None) -> dict[str, str]:
    """Of the children of a FineTuneJob, or of those of one stage."""
    of_run = {names.LABEL_FINETUNEJOB: name(job), names.LABEL_REVISION: run}
    app = podspec.app_labels("finetunejob", name(job), stage or "")
    return {**app, **of_run, **({names.LABEL_STAGE: stage} if stage else {})}


def config_map(job: Json, run: str) -> Json:
    """The FineTuneJob as the stages read it."""
    metadata = {key: job["metadata"][key] for key in ("name", "namespace", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_name(job, run),
            "namespace": namespace(job),
            "labels": labels(job, run),
            "ownerReferences": [owner_reference(job)],
        },
        "immutable": True,
        "data": {"job.json": json.dumps({"metadata": metadata, "spec": run_spec(job)}, sort_keys=True)},
    }


class Before(NamedTuple):
    """What the status had counted when a Job was created; the Job itself counts from zero."""

    failed: int = 0  # pods of all stages that were charged
    restarts: int = 0  # of this stage
    reruns: int = 0  # of this stage
    out_of_memory: int = 0  # pods of this stage that were killed for their memory


NOTHING_BEFORE: Final = Before()


def counted_before(job: Json) -> Before:
    """Reads the annotation of a stage's Job."""
    return Before(**json.loads(job["metadata"].get("annotations", {}).get(names.ANNOTATION_BEFORE, "{}")))


def stage_job(
    job: Json,
    run: str,
    spec: FineTuneJobSpec,
    stage: Stage,
    digests: Mapping[str, str],
    settings: Settings,
    before: Before = NOTHING_BEFORE,
) -> Json:
    """The batch/v1 Job of one stage; `digests` are those that prepare computed, and empty for prepare itself."""
    queue = spec.queue_name if STAGES[stage].queued else None
    stage_labels = labels(job, run, stage)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(job, stage, run),
            "namespace": namespace(job),
            "labels": stage_labels | ({names.LABEL_QUEUE: queue} if queue else {}),
            "annotations": {names.ANNOTATION_BEFORE: json.dumps(before._asdict())},
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {
            **({"suspend": True} if queue else {}),  # Kueue sets it to false when there is quota
            **nodes.completion(nodes.pods_of(spec, stage), spec.retry_policy.backoff_limit),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": FAILURE_POLICY},
            "template": {
                "metadata": podspec.metadata(spec.pod, stage_labels),
                "spec": _pod(job, run, spec, stage, digests, settings, before),
            },
        },
    }


def stage_services(job: Json, run: str, spec: FineTuneJobSpec, stage: Stage) -> list[Json]:
    """By which several pods of a stage find each other: one headless Service with the Job's name. Empty for one pod."""
    if nodes.pods_of(spec, stage) == 1:
        return []
    service, owner = job_name(job, stage, run), owner_reference(job)
    return [nodes.headless_service(service, namespace(job), labels(job, run, stage), owner)]


def _pod(
    job: Json,
    run: str,
    spec: FineTuneJobSpec,
    stage: Stage,
    digests: Mapping[str, str],
    settings: Settings,
    before: Before,
) -> Json:
    definition = STAGES[stage]
    resources = spec.resources if definition.on_gpu else podspec.without_gpu(spec.resources)
    config = {"name": "job", "configMap": {"name": config_name(job, run)}}
    mounted = [
        (config, {"name": "job", "mountPath": names.JOB_DIR, "readOnly": True}),
        *podspec.credentials(spec.output.secret_ref),
        *podspec.secret_files("tracking", names.TRACKING_DIR, _tracking_secret(spec, stage)),
        podspec.scratch("work", names.WORK_DIR),
        podspec.scratch("tmp", "/tmp"),  # noqa: S108 - the pod's own
        podspec.scratch("shm", "/dev/shm", memory=True),  # noqa: S108 - tensors between processes
    ]
    container = {
        "name": CONTAINER,
        "image": images.image(settings, definition.image(spec)),
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["tuneyard", "stage", stage],
        "env": _environment(job, run, spec, stage, digests, before),
        "ports": [{"name": "progress", "containerPort": names.PROGRESS_PORT}],
        "resources": podspec.container_resources(resources),
        "securityContext": podspec.CONTAINER_SECURITY,
        "volumeMounts": [mount for _, mount in mounted],
    }
    several = nodes.pods_of(spec, stage) > 1
    spread = {names.LABEL_FINETUNEJOB: name(job), names.LABEL_STAGE: stage}
    return {
        **podspec.NO_TOKEN,
        **({"subdomain": job_name(job, stage, run)} if several else {}),
        **podspec.image_settings(settings),
        **podspec.identity(spec.pod),
        **podspec.placement(resources, spec.priority_class_name, spread),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": definition.grace_seconds,
        "securityContext": podspec.POD_SECURITY,
        "containers": [container],
        "volumes": [volume for volume, _ in mounted],
    }


def _tracking_secret(spec: FineTuneJobSpec, stage: Stage) -> SecretRef | None:
    """Only the training is tracked."""
    tracking = spec.training.tracking if stage == "train" else None
    return tracking.mlflow.secret_ref if tracking and tracking.mlflow else None


def _environment(
    job: Json, run: str, spec: FineTuneJobSpec, stage: Stage, digests: Mapping[str, str], before: Before
) -> list[Json]:
    variables = {"HOME": "/tmp"}  # noqa: S108
    if digests:
        variables[names.ENV_DIGESTS] = json.dumps(dict(digests), sort_keys=True)
    if threads := cpu_threads(spec.resources.limits, spec.resources.requests):
        variables[names.ENV_THREADS] = str(threads)
    if before.out_of_memory:
        variables[names.ENV_PODS_KILLED] = str(before.out_of_memory)
    if nodes.pods_of(spec, stage) > 1:
        variables |= nodes.rendezvous_environment(job_name(job, stage, run))
    return [{"name": key, "value": value} for key, value in variables.items()]
