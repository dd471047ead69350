"""What the operator says names what its user knows, and a defect of the operator is a condition."""

from datetime import datetime
from typing import Any

import pytest

from support.builders import NOW, SETTINGS, artifact, fine_tune_job, model_server
from support.declared import KINDS
from support.podstatus import termination
from support.rollouts import message, work
from support.serving import Serving
from tuneyard_operator.finetunejob import CONTROLLER as FINE_TUNE_JOBS
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.errors import ApiError, described
from tuneyard_operator.machinery.http import HttpClient
from tuneyard_operator.machinery.identity import Identity
from tuneyard_operator.machinery.objects import Json, condition_in, key_of
from tuneyard_operator.machinery.plan import Plan
from tuneyard_operator.machinery.reconcile import Reconciler
from tuneyard_operator.modelserver import CONTROLLER as MODEL_SERVERS
from tuneyard_operator.pods.words import in_user_words

POD: Json = {
    "spec": {
        "volumes": [
            {"name": "s3", "secret": {"secretName": "store"}},
            {"name": "auth", "secret": {"secretName": "keys", "items": [{"key": "api-key", "path": "key"}]}},
        ],
        "containers": [
            {
                "volumeMounts": [
                    {"name": "s3", "mountPath": "/etc/tuneyard/s3"},
                    {"name": "auth", "mountPath": "/etc/tuneyard/auth"},
                ]
            }
        ],
    }
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/etc/tuneyard/s3 has no AWS_ACCESS_KEY_ID", "Secret store has no AWS_ACCESS_KEY_ID"),
        ("/etc/tuneyard/auth/key holds no API key.", "Key api-key of Secret keys holds no API key."),
        ("No space left on device: /work/model/x", "No space left on device: the pod's scratch volume/model/x"),
        ("s3://models/model is not there", "s3://models/model is not there"),
        ("Check AWS_ENDPOINT_URL in the credentials Secret.", "Check AWS_ENDPOINT_URL in Secret store."),
        ("s3://bucket/work is not there", "s3://bucket/work is not there"),
        ("see /etc/tuneyard/s3x", "see /etc/tuneyard/s3x"),
    ],
)
def test_paths_in_pods_are_translated(text: str, words: str) -> None:
    assert in_user_words(text, POD) == words


def test_missing_credentials_name_the_secret() -> None:
    cluster = Serving(model=artifact("sha256:" + "a" * 64) | {"secretRef": {"name": "store"}})
    cluster.step(0)
    said = termination("CredentialsMissing", "/etc/tuneyard/s3 does not exist or is empty", "Create it.")
    (deployment,) = cluster.deployments
    cluster.deployment_controller.sync(deployment)
    cluster.kubelet.crash_loop(cluster.pods_of(deployment)[0], "fetch", 65, said, 1)
    work(cluster, 5)
    assert "Secret store does not exist or is empty" in message(cluster, "Progressing")


@pytest.mark.parametrize("error", [TimeoutError(), ApiError(0, "TimeoutError", "no answer"), ValueError("x")])
def test_log_messages_are_never_empty(error: Exception) -> None:
    """An exception is true, whatever it says."""
    assert described(error).strip(": ")


class Answering:
    """An API server that stores every status."""

    def __init__(self) -> None:
        self.applied: list[Json] = []
        self.identity = Identity("tuneyard-operator", "tuneyard")

    async def apply(self, obj: Json, **_: Any) -> Json:
        self.applied.append(obj)
        return obj


@pytest.mark.parametrize(("controller", "kind"), [(MODEL_SERVERS, "Degraded"), (FINE_TUNE_JOBS, "Succeeded")])
async def test_defect_is_a_condition(controller: Any, kind: str) -> None:
    def fail(*_: Any) -> Plan:
        raise KeyError("annotations")

    obj = model_server(artifact("a")) if controller is MODEL_SERVERS else fine_tune_job()
    obj["metadata"]["resourceVersion"] = "1"
    cache, server = Cache(KINDS), Answering()
    cache.put(obj)
    broken = controller._replace(plan=fail)

    def clock() -> datetime:
        return NOW

    reconcile = Reconciler(server, cache, [broken], SETTINGS, HttpClient(), clock=clock)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(KeyError):
            await reconcile(key_of(obj))
    (written,) = [each["status"] for each in server.applied][:1]
    found = condition_in(written["conditions"], kind)
    assert (found["reason"], written["reason"]) == ("InternalError", "InternalError")
    assert "KeyError: 'annotations'" in found["message"]
