"""A simulated cluster with one FineTuneJob, in the words of its stages."""

from typing import Any, Self

from support.builders import fine_tune_job
from support.cluster import SimulatedCluster
from support.podstatus import PREEMPTED, termination
from support.reports import CHAIN, DATASET, PREPARED, PUBLISHED
from tuneyard_api import names, reasons
from tuneyard_api.kinds.finetunejob import CHANGEABLE, REPLACE, RESTING
from tuneyard_api.names import Stage
from tuneyard_api.runs import revision
from tuneyard_operator.finetunejob.children import job_name
from tuneyard_operator.machinery.objects import Json, condition, hash8, key_of, label
from tuneyard_operator.machinery.plan import Plan


def stages_of(jobs: list[Json]) -> list[str]:
    return [label(job, names.LABEL_STAGE) for job in jobs]


class FineTuning(SimulatedCluster):
    """What a test does to a FineTuneJob, its Jobs and their pods."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(fine_tune_job(**spec))
        self.chain = CHAIN
        self.store: set[str] = set()  # digests of stages that are committed

    @property
    def exists(self) -> bool:
        return self.key in self.objects

    @property
    def job(self) -> Json:
        return self.objects[self.key]

    @property
    def jobs(self) -> list[Json]:
        return self.of_kind("Job")

    @property
    def pods(self) -> list[Json]:
        return self.of_kind("Pod")

    @property
    def services(self) -> list[Json]:
        return self.of_kind("Service")

    @property
    def status(self) -> Json:
        status: Json = self.job["status"]
        return status

    def stage(self, stage: Stage) -> Json:
        (entry,) = [item for item in self.status["stages"] if item["name"] == stage]
        return dict(entry)

    def condition(self, kind: str) -> Json:
        return condition(self.job, kind)

    def job_of(self, stage: Stage) -> Json:
        return self.objects[self.key._replace(kind="Job", name=job_name(self.job, stage, revision(self.job)))]

    def pods_of_stage(self, stage: Stage) -> list[Json]:
        return [pod for pod in self.pods if label(pod, names.LABEL_STAGE) == stage]

    # The user.

    def apply_again(self, **spec: Any) -> None:
        """A FineTuneJob of the same name."""
        self.create(fine_tune_job(**spec))

    def may_change(self, **spec: Any) -> bool:
        """By the rule of the CRD."""
        phase = self.job.get("status", {}).get("phase", "Pending")
        replaces = (self.job["spec"] | spec).get("onSpecChange") == REPLACE
        return phase in RESTING or replaces or all(field in CHANGEABLE for field in spec)

    def change(self, **spec: Any) -> Self:
        """Another spec; a field that is None is removed."""
        assert self.may_change(**spec)
        self.job["spec"] = {key: value for key, value in (self.job["spec"] | spec).items() if value is not None}
        return self

    # The operator.

    def step(self) -> Plan:
        """One reconcile. What it deletes is gone afterwards, and a second has passed."""
        step = self.reconcile()
        for item in step.delete:
            if obj := self.objects.get(key_of(item)):
                self.garbage_collector.finish(obj)
        self.wait(1)
        return step

    # The Job controller and the kubelet.

    def create_pod(self, stage: Stage) -> Json:
        return self.job_controller.create_pod(self.job_of(stage))

    def run(self, stage: Stage, **progress: Any) -> Self:
        """A new pod of the stage runs, and reports that progress."""
        pod = self.kubelet.start(self.create_pod(stage))
        if progress:
            self.progress[pod["status"]["podIP"]] = {"stage": stage, **progress}
        return self

    def exit(self, stage: Stage, code: int, message: str = "", reason: str = "") -> Self:
        """The newest pod of the stage ends, or a new one where none is active."""
        active = [pod for pod in self.pods_of_stage(stage) if pod["status"].get("phase") not in ("Succeeded", "Failed")]
        pod = active[-1] if active else self.create_pod(stage)
        self.progress.pop(pod["status"].get("podIP", ""), None)
        self.kubelet.exit(pod, code, message, reason)
        return self

    def remove_pod(self) -> Json:
        """The newest pod is deleted, and what it reported with it."""
        pod = self.pods[-1]
        self.remove(pod)
        return pod

    def fail_job(self, stage: Stage, reason: str = "BackoffLimitExceeded", message: str = "", failed: int = 1) -> Self:
        """The Job controller has ended the stage's Job, which was charged `failed` pods."""
        self.job_controller.fail(self.job_of(stage), reason, message, failed=failed)
        return self

    def complete_job(self, stage: Stage) -> Self:
        self.job_controller.complete(self.job_of(stage), succeeded=1)
        return self

    def complete(self, stage: Stage, result: Json | None = None, reason: str = reasons.COMPLETED) -> Self:
        """The stage's pod runs and succeeds, and its Job is complete."""
        return self.run(stage).exit(stage, 0, termination(reason, result=result)).complete_job(stage)

    # Whole stages.

    def prepared(self, *done: str) -> Self:
        """The chain up to the end of prepare, which found the stages `done` committed."""
        self.step()
        self.complete("prepare", PREPARED | {"done": list(done)}).step()
        return self

    def finish(self, *stages: Stage) -> Self:
        for stage in stages:
            self.complete(stage, PUBLISHED if stage == "publish" else None).step()
        return self

    def at(self, stage: Stage) -> Self:
        """The chain up to where the stage has a Job without a pod."""
        if stage == "prepare":
            self.step()
            return self
        return self.prepared().finish(*CHAIN[1 : CHAIN.index(stage)])

    # Stages whose reports follow from the spec.

    def digests(self) -> dict[str, str]:
        """What prepare computes for the spec."""
        training = self.job["spec"].get("training")
        return {stage: hash8([stage, None if stage == "prepare" else training]) * 8 for stage in self.chain}

    def succeed(self, pod: Json, *, readable: bool = True) -> None:
        """The pod's stage commits and reports; `readable`: the operator understands reports of this version."""
        report = self._report(pod)
        self.kubelet.exit(pod, 0, termination(reasons.COMPLETED, result=report if readable else {"other": 1}))

    def _report(self, pod: Json) -> Json | None:
        stage, digests = label(pod, names.LABEL_STAGE), self.digests() if self.exists else {}
        self.store.add(digests.get(stage, ""))
        if stage == "publish":
            left_out = () if "evaluate" in self.chain else ("evaluation",)
            published = {name: value for name, value in PUBLISHED.items() if name not in left_out}
            return published if "export" in self.chain else {"artifacts": []}
        if stage != "prepare":
            return None
        return {
            "digests": digests,
            "done": [stage for stage in self.chain if digests.get(stage) in self.store],
            "dataset": DATASET,
        }

    # Kueue and other users.

    def queued_jobs(self) -> list[Json]:
        return [job for job in self.job_controller.unfinished() if label(job, names.LABEL_QUEUE)]

    def admit(self, job: Json) -> None:
        job["spec"]["suspend"] = False

    def suspend(self, job: Json) -> None:
        """Somebody suspends a Job, or Kueue takes its quota back: its pods get SIGTERM."""
        job["spec"]["suspend"] = True
        for pod in self.pods_of(job):
            if pod in self.kubelet.running():
                self.delete(pod)
                self.kubelet.exit(pod, *PREEMPTED)

    def orphan(self, job: Json) -> None:
        """Somebody deletes a Job and leaves its pods."""
        for pod in self.pods_of(job):
            pod["metadata"]["ownerReferences"] = []
        self.remove(job)

    def controllers_run(self) -> None:
        """One step of every controller, and of Kueue, which admits every Job."""
        self.garbage_collector.collect()
        for job in [item for item in self.job_controller.unfinished() if item["spec"].get("suspend")]:
            self.admit(job)
        for pod in self.kubelet.running():
            self.succeed(pod)
        for job in self.job_controller.unfinished():
            self.job_controller.sync(job)
        for job in self.job_controller.lacking_pods():
            self.start_pods(job)

    def start_pods(self, job: Json) -> None:
        self.wait(1)  # creation times order the pods of a Job
        for pod in self.job_controller.create_pods(job):
            self.kubelet.start(pod)
