"""FineTuneJobs and ModelServers for the tests, and functions that read their state."""

import re
from typing import Any

from demo.kubectl import Json, KubectlError, condition, get, is_condition_true, items, kubectl, wait_until

# So little is asked for that the pods of two modules fit two CPUs: a rollout without room takes the old revision down.
CPU: Json = {"gpus": 0, "requests": {"cpu": "20m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "6Gi"}}


def fine_tune_job(name: str, namespace: str, **parts: Any) -> Json:
    """A job on the small model that takes seconds; `parts` replace whole fields of the spec."""
    spec: Json = {
        "model": {"uri": "s3://models/small"},
        "dataset": {"train": [{"uri": "s3://data/few.jsonl"}]},
        "training": small_training(10),
        "evaluation": {"maxRows": 8, "gates": []},
        "output": {"uri": f"s3://artifacts/{namespace}/{name}", "secretRef": {"name": "s3-credentials"}},
        "resources": CPU,
    }
    return _resource("FineTuneJob", name, namespace, spec | parts)


def small_training(steps: int, **more: Any) -> Json:
    """Training settings for several steps a second on two cores; `more` adds further settings."""
    batches = {"effectiveBatchSize": 2, "microBatchSize": 1, "maxLength": 128}
    return {"maxSteps": steps, "learningRate": 2e-3, **batches, **more}


def model_server(name: str, namespace: str, model: Json, **parts: Any) -> Json:
    spec: Json = {"model": model, "vllm": {"maxModelLen": 512}, "resources": CPU}
    return _resource("ModelServer", name, namespace, spec | parts)


def _resource(kind: str, name: str, namespace: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "tuneyard.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def wait_for_job(name: str, namespace: str, outcome: str = "Succeeded", seconds: float = 600) -> Json:
    """Waits for the condition `outcome` and returns the job; fails at once if the job has the opposite condition."""
    other = {"Succeeded": "Failed", "Failed": "Succeeded"}[outcome]

    def ended() -> bool:
        job = get("finetunejob", name, namespace)
        found = condition(job, other)
        assert found["status"] != "True", f"{name} is {other}: {found['reason']}: {found['message']}"
        return is_condition_true(job, outcome)

    wait_until(ended, f"FineTuneJob {name} has condition {outcome}", seconds)
    return get("finetunejob", name, namespace)


def wait_for_server(name: str, namespace: str, kind: str = "Available", seconds: float = 400) -> Json:
    """Waits until the newest spec is observed and the condition `kind` is true; returns the server."""

    def is_current() -> bool:
        server = get("modelserver", name, namespace)
        observed = server.get("status", {}).get("observedGeneration") == server["metadata"]["generation"]
        return observed and is_condition_true(server, kind)

    wait_until(is_current, f"ModelServer {name} has condition {kind}", seconds)
    return get("modelserver", name, namespace)


def stage_pods(job: str, namespace: str, stage: str) -> list[Json]:
    return items("pods", namespace, f"tuneyard.dev/finetunejob={job},tuneyard.dev/stage={stage}")


def training_log(job: str, namespace: str) -> str:
    """The log of the training pods that exist; empty while none has started."""
    try:
        return kubectl(
            "logs", "-n", namespace, "-l", f"tuneyard.dev/finetunejob={job},tuneyard.dev/stage=train", "--tail=-1"
        )
    except KubectlError:
        return ""


def last_step(log: str) -> int:
    """The last step that the log names; 0 before the first one."""
    return max((int(step) for step in re.findall(r"\bstep (\d+)/", log)), default=0)


def resumed_from(log: str) -> int:
    """The step of the checkpoint from which the training resumed."""
    resumed = re.search(r"resum\w* .*step (\d+)", log, re.IGNORECASE)
    assert resumed, log
    return int(resumed[1])


def stage(job: Json, name: str) -> Json:
    """The entry of the stage in the job's status; empty if there is none yet."""
    return next((entry for entry in job.get("status", {}).get("stages", []) if entry["name"] == name), {})


def stage_digest(job: Json, name: str) -> str:
    return str(stage(job, name)["digest"])


def artifact(job: Json, form: str) -> Json:
    (found,) = [entry for entry in job["status"]["artifacts"] if entry["format"] == form]
    return dict(found)


def restart_operator() -> None:
    """Deletes all operator pods without a grace period; their Deployment creates new ones."""
    kubectl(
        "delete",
        "pods",
        "-n",
        "tuneyard-system",
        "-l",
        "app.kubernetes.io/name=tuneyard",
        "--force",
        "--grace-period=0",
        "--wait=false",
    )
