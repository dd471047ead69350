"""Training over several nodes: an Indexed Job, and a headless Service by which its pods find the first one."""

from collections.abc import Mapping

from tuneyard_api import names
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES
from tuneyard_operator.machinery.objects import Json


def pods_of(spec: FineTuneJobSpec, stage: Stage) -> int:
    """How many pods work on a stage together."""
    return spec.resources.nodes if STAGES[stage].on_gpu else 1


def completion(pods: int, backoff_limit: int) -> Json:
    """The fields of the Job's spec that say how many pods it has, and how often they may crash.

    When one pod crashes, the others end with it. So failures are counted per index: otherwise one crash would count as
    many. maxFailedIndexes is 0 because no pod can go on without the others.
    """
    count = {"completions": pods, "parallelism": pods}
    if pods == 1:
        return {**count, "backoffLimit": backoff_limit}
    return {**count, "completionMode": "Indexed", "backoffLimitPerIndex": backoff_limit, "maxFailedIndexes": 0}


def rendezvous_environment(job_name: str) -> dict[str, str]:
    """Environment of the pods: where torchrun finds its first node. Kubernetes adds each pod's index."""
    return {names.ENV_MASTER_ADDR: f"{job_name}-0.{job_name}", names.ENV_MASTER_PORT: str(names.MASTER_PORT)}


def headless_service(job_name: str, namespace: str, labels: Mapping[str, str], owner: Json) -> Json:
    """Gives the pods of a Job names in DNS before they are ready: they find each other by these while they start."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": job_name, "namespace": namespace, "labels": dict(labels), "ownerReferences": [owner]},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": dict(labels),
            "ports": [
                {"name": "progress", "port": names.PROGRESS_PORT},
                {"name": "torch", "port": names.MASTER_PORT},
            ],
        },
    }
