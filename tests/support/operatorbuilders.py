"""FineTuneJobs, Jobs and pods as the API server returns them, for table tests of the operator."""

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from tuneyard_api.contracts.progress import ProgressReport
from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob.children import job_name, labels
from tuneyard_operator.finetunejob.observe import World
from tuneyard_operator.finetunejob.plan import plan
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import Json, owned_by, uid
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.settings import Settings

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings(trainer_image="trainer:1", server_image="server:1")
CHAIN: tuple[Stage, ...] = tuple(STAGES)
DIGESTS: dict[str, str] = {stage: f"{index}" * 64 for index, stage in enumerate(CHAIN)}
DATASET = {"rowsIn": 10, "rowsKept": 9, "dropped": {"duplicate": 1}, "tokens": 90, "digest": "d" * 64}
BUILT = {"format": "bf16", "digest": f"sha256:{'a' * 64}", "sizeBytes": 7, "perplexity": 3.5}
EXPORT_URI = f"s3://out/runs/{DIGESTS['export']}/export"
# As the status shows it.
ARTIFACT = BUILT | {"uri": f"{EXPORT_URI}/bf16"}


def measurements(**perplexity: float) -> list[Json]:
    """What evaluate measured, by subject."""
    return [{"subject": subject, "metric": "perplexity", "value": value} for subject, value in perplexity.items()]


def evaluated(measured: list[Json], gates: list[Json] | None = None) -> Json:
    """The report of evaluate."""
    gates = gates or []
    failed = sum(not gate["passed"] for gate in gates)
    counts = {"gatesPassed": len(gates) - failed, "gatesFailed": failed}
    return {"measurements": measured, "gates": gates, **counts}


# The reports of prepare and publish.
PREPARED: Json = {"digests": DIGESTS, "done": [], "dataset": DATASET}
PUBLISHED: Json = {
    "artifacts": [BUILT],
    "recommended": {"format": "bf16", "reason": "the only one"},
    "evaluation": evaluated(measurements(base=9.0, tuned=3.0)),
    "loss": 1.23456789,
}


def fine_tune_job(**spec: Any) -> Json:
    parts: Json = {
        "model": {"uri": "s3://models/m"},
        "dataset": {"train": [{"uri": "s3://data/d.jsonl"}]},
        "output": {"uri": "s3://out", "secretRef": {"name": "keys"}},
    }
    return {
        "apiVersion": "tuneyard.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {
            "name": "x",
            "namespace": "team",
            "uid": "uid-x",
            "generation": 1,
            "labels": {"argocd.argoproj.io/instance": "app", "team": "a"},
            "annotations": {"argocd.argoproj.io/tracking-id": "app:x"},
        },
        "spec": parts | spec,
    }


def termination(reason: str, message: str = "", advice: str = "", result: Json | None = None) -> str:
    """A termination message."""
    return json.dumps({"reason": reason, "message": message, "advice": advice, "result": result})


class Cluster:
    """A FineTuneJob and its children; `step` does what the plan asks for."""

    def __init__(self, **spec: Any) -> None:
        self.job = fine_tune_job(**spec)
        self.jobs: list[Json] = []
        self.pods: list[Json] = []
        self.services: list[Json] = []
        self.progress: ProgressReport | None = None
        self.since_write = 60.0
        self.idle = 0.0
        self.warnings: dict[str, str] = {}
        self.rejection: Rejection | None = None
        self.now = NOW
        self.settings = SETTINGS
        self.emitted: list[str] = []

    def world(self) -> World:
        return World(
            self.job,
            self.jobs,
            self.pods,
            self.progress,
            self.since_write,
            self.idle,
            warnings=self.warnings,
            rejection=self.rejection,
            services=self.services,
        )

    def plan(self) -> Plan:
        return plan(self.world(), self.settings, self.now)

    def step(self) -> Plan:
        """Plans once, and does what the plan asks for."""
        step = self.plan()
        for job in step.delete:
            self.gone(job)
        self.services += [child for child in deepcopy(step.apply) if child["kind"] == "Service"]
        for job in deepcopy(step.create):
            job["metadata"] |= {"uid": f"uid-{job['metadata']['name']}"}
            self.jobs.append(job)
        self.job["status"] = json.loads(json.dumps(step.status))
        self.emitted += [f"{event.reason}: {event.message}" for event in step.events]
        self.now += timedelta(seconds=1)
        return step

    def gone(self, job: Json) -> Self:
        """The Job is deleted in the foreground, and its pods with it."""
        self.jobs = [other for other in self.jobs if other is not job]
        self.pods = [pod for pod in self.pods if not owned_by(pod, uid(job))]
        return self

    def changed(self, **spec: Any) -> Self:
        """The user applies another spec; None removes a field."""
        wanted = self.job["spec"] | spec
        self.job["spec"] = {field: value for field, value in wanted.items() if value is not None}
        self.job["metadata"]["generation"] += 1
        return self

    @property
    def status(self) -> Json:
        status: Json = self.job["status"]
        return status

    def stage(self, stage: Stage) -> Json:
        (entry,) = [entry for entry in self.status["stages"] if entry["name"] == stage]
        return dict(entry)

    def condition(self, kind: str) -> Json:
        found = [entry for entry in self.status["conditions"] if entry["type"] == kind]
        return dict(found[0]) if found else {}

    def job_of(self, stage: Stage) -> Json:
        (job,) = [job for job in self.jobs if job["metadata"]["name"] == job_name(self.job, stage)]
        return job

    def pod(self, stage: Stage, container: Json | None = None, **status: Any) -> Self:
        """Adds a pod to the stage's Job; `container` is the state of its container."""
        job = self.job_of(stage)
        owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": uid(job), "controller": True}
        listed = [{"name": "stage", "state": container}] if container else []
        metadata = {
            "name": f"{job['metadata']['name']}-{len(self.pods)}",
            "namespace": "team",
            "uid": f"uid-pod-{len(self.pods)}",
            "creationTimestamp": timestamp(self.now),
            "labels": labels(self.job, stage),
            "ownerReferences": [owner],
        }
        self.pods.append({"metadata": metadata, "status": {"containerStatuses": listed, "podIP": "10.0.0.9"} | status})
        return self

    def running(self, stage: Stage, **answer: Any) -> Self:
        self.progress = ProgressReport.model_validate({"stage": stage, **answer}) if answer else None
        return self.pod(stage, {"running": {"startedAt": "2030-01-02T03:04:05Z"}}, phase="Running")

    def exited(self, stage: Stage, code: int, message: str = "", reason: str = "Error") -> Self:
        """The newest pod of the stage, or a new one, ends."""
        self.progress = None
        if not self.pods or self.pods[-1]["metadata"]["labels"]["tuneyard.dev/stage"] != stage:
            self.pod(stage)
        ended = {
            "exitCode": code,
            "message": message,
            "reason": reason,
            "finishedAt": f"2030-01-02T03:05:{len(self.pods):02}Z",
        }
        phase = "Failed" if code else "Succeeded"
        self.pods[-1]["status"] |= {
            "phase": phase,
            "containerStatuses": [{"name": "stage", "state": {"terminated": ended}}],
        }
        return self

    def job_is(self, stage: Stage, kind: str, **status: Any) -> Self:
        """The Job controller sets the condition Complete or Failed."""
        at = "2030-01-02T03:06:00Z"
        said_so = {"type": kind, "status": "True", "lastTransitionTime": at, "reason": "PodFailurePolicy"}
        self.job_of(stage)["status"] = {"startTime": "2030-01-02T03:04:00Z", "conditions": [said_so], **status}
        if kind == "Complete":
            self.job_of(stage)["status"]["completionTime"] = at
        return self

    def completed(self, stage: Stage, result: Json | None = None, reason: str = "Completed") -> Self:
        self.running(stage).exited(stage, 0, termination(reason, result=result), "Completed")
        return self.job_is(stage, "Complete", succeeded=1)

    def prepared(self, *done: str) -> Self:
        """The chain up to the end of prepare."""
        self.step()
        self.completed("prepare", PREPARED | {"done": list(done)})
        self.step()
        return self


def stages_with_jobs(cluster: Cluster) -> list[str]:
    return [job["metadata"]["labels"]["tuneyard.dev/stage"] for job in cluster.jobs]


def finish(cluster: Cluster, *stages: Stage) -> None:
    for stage in stages:
        cluster.completed(stage, PUBLISHED if stage == "publish" else None)
        cluster.step()
