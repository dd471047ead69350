"""The plan of a FineTuneJob in random worlds: it is never stuck, and nothing is repeated or undone."""

from copy import deepcopy
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.controllers import exit_code
from support.finetuning import FineTuning
from support.podstatus import termination
from support.randomworlds import PICK, PROFILE
from tuneyard_api import names
from tuneyard_api.kinds.finetunejob import RESTING
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import Stage
from tuneyard_api.runs import revision
from tuneyard_api.stages import STAGES
from tuneyard_operator.machinery.objects import Json, is_deleting, label, name, owned_by, uid
from tuneyard_operator.machinery.plan import Plan, Rejection

RANK: Final = {"Pending": 0, "Running": 1, "Succeeded": 2, "Adopted": 2, "Failed": 2}
ENDED: Final = ("Succeeded", "Failed")
# Exit codes, and None: the pod is gone. A stage that succeeds is the most frequent.
ENDINGS: Final = st.sampled_from([0, 0, 0, 0, 1, 1, names.EXIT_TRY_AGAIN, names.EXIT_BAD_INPUT, None])
SPECS: Final = st.fixed_dictionaries(
    {},
    optional={
        "suspend": st.booleans(),
        "queueName": st.just("gpus"),
        "retryPolicy": st.just({"backoffLimit": 1}),
        "onSpecChange": st.just("Replace"),
    },
)
# Specs that ask for different runs.
VARIANTS: Final = (
    {"training": {"maxSteps": 1}},
    {"training": {"maxSteps": 2}},
    {"resources": {"gpus": 2}},
    {"rerun": "again"},
)
# More reconciles than the longest chain needs: five stages, each created, started, ended and counted; and, at one every
# ten seconds, the quarter of an hour after which a stalled Job is recreated whose back-off was long.
MAX_RECONCILES: Final = 160


def states(status: Json) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in status.get("stages", [])}


class FineTuneJobLife(RuleBasedStateMachine):
    cluster: FineTuning
    requeue_after: float | None = None

    @initialize(spec=SPECS)
    def applied(self, spec: Json) -> None:
        self.cluster = FineTuning(**spec)

    # What the operator does, and what must hold.

    @precondition(lambda self: self.cluster.exists)
    @rule(rejection=st.sampled_from([None, None, None, None, "exceeded quota", "Invalid value"]))
    def operator_reconciles(self, rejection: str | None) -> None:
        self.reconcile(rejection)

    @precondition(lambda self: self.cluster.exists)
    @rule()
    def operator_is_killed_before_the_status(self) -> None:
        self.cluster.sync()
        self.cluster.act(self.cluster.plan())
        self.cluster.queue.add(self.cluster.key)  # the next operator reconciles at once

    def reconcile(self, rejected: str | None = None) -> None:
        cluster = self.cluster
        before = deepcopy(cluster.job.get("status", {}))
        cluster.sync()
        cluster.queue.clear()
        step = cluster.plan()
        if rejected and step.create:
            final = rejected.startswith("Invalid")
            cluster.rejection = Rejection(name(step.create[0]), rejected, final=final)
            step, cluster.rejection = cluster.plan(), None
        else:
            rejected = None
        self.check_plan(before, step)
        self.requeue_after = 1.0 if rejected else step.requeue_after  # a rejection is tried again by the queue
        if not rejected:
            self.check_idempotence(step)
        cluster.act(step)
        cluster.write_status(step)

    def check_plan(self, before: Json, step: Plan) -> None:
        job = self.cluster.job
        FineTuneJobStatus.model_validate(step.status)
        if job in step.delete:
            assert before["phase"] in ENDED, "only a job that has ended is deleted"
            return
        assert step.status["observedGeneration"] == job["metadata"]["generation"]
        self.check_created(step)
        if before.get("revision") == revision(job):
            self.check_progress(before, step)

    def check_created(self, step: Plan) -> None:
        cluster = self.cluster
        existing = set(map(name, cluster.jobs))
        for created in step.create:
            stage = label(created, names.LABEL_STAGE)
            assert not cluster.job["spec"].get("suspend")
            assert name(created) not in existing, (
                "nothing is created while a Job of its name exists or is being deleted"
            )
            assert stage != "train" or not self.running_pods("train"), "two pods never write one checkpoint"
            assert states(step.status)[stage] == "Pending", "a stage that is done does not run again"

    def running_pods(self, stage: Stage) -> list[Json]:
        return [pod for pod in self.cluster.pods_of_stage(stage) if pod in self.cluster.kubelet.running()]

    def check_progress(self, before: Json, step: Plan) -> None:
        if before["phase"] in ENDED:
            ignored: Json = {"conditions": [], "observedGeneration": 0}
            assert step.status | ignored == before | ignored
            assert not step.create
        was, now = states(before), states(step.status)
        for stage in STAGES:
            if RANK[now[stage]] < RANK[was[stage]]:
                owned = [pod for pod in self.running_pods(stage) if pod["metadata"]["ownerReferences"]]
                stopped = step.delete or any(map(is_deleting, self.cluster.jobs))
                assert (was[stage], now[stage]) == ("Running", "Pending")
                assert stopped or all(map(is_deleting, owned)), "its pod still runs"
        assert step.status["restarts"]["failed"] <= len(self.cluster.job_controller.charged)
        for counter in ("preempted", "failed"):
            assert step.status["restarts"][counter] >= before["restarts"][counter]

    def check_idempotence(self, first: Plan) -> None:
        """The same again once the status is written, and before anything else is."""
        if first.status["phase"] in ENDED or first.delete:
            return  # then Jobs of earlier runs are deleted; and what is deleted goes before the status is written
        second = self.cluster.plan_after(first.status)
        assert second.status == first.status
        assert (second.delete, second.create) == ([], first.create)

    @invariant()
    def preemptions_are_not_charged(self) -> None:
        charged = self.cluster.job_controller.charged.values()
        assert {exit_code(pod) for pod in charged} <= {names.EXIT_UNKNOWN}

    @invariant()
    def is_never_stuck(self) -> None:
        """Without an event and without a requeue, it waits for something that it names."""
        cluster = self.cluster
        if not cluster.exists or cluster.is_enqueued() or self.requeue_after:
            return
        status = cluster.status
        assert (
            status["phase"] in (*ENDED, "Suspended")
            or any(map(is_deleting, cluster.jobs))
            or cluster.kubelet.running()
            or any(name(job) in str(status["conditions"]) or "queue gpus" in str(status) for job in cluster.jobs)
            or any(map(cluster.job_controller.has_decided_pod, cluster.job_controller.unfinished()))
        ), status

    # What happens to it.

    @precondition(lambda self: self.cluster.job_controller.lacking_pods())
    @rule(pick=PICK)
    def pod_starts(self, pick: int) -> None:
        jobs = self.cluster.job_controller.lacking_pods()
        self.cluster.start_pods(jobs[pick % len(jobs)])

    @precondition(lambda self: self.cluster.kubelet.running())
    @rule(pick=PICK, ending=ENDINGS, readable=st.sampled_from([True, True, True, False]), counts=st.booleans())
    def pod_ends(self, pick: int, ending: int | None, readable: bool, counts: bool) -> None:
        pods = self.cluster.kubelet.running()
        pod = pods[pick % len(pods)]
        if ending is None:
            self.cluster.remove(pod)
            return
        if ending == names.EXIT_DONE:
            self.cluster.succeed(pod, readable=readable)
        else:
            self.cluster.kubelet.exit(pod, ending, termination("Why"))
        if counts:
            self.controller_counts()

    @precondition(lambda self: self.cluster.job_controller.unfinished())
    @rule()
    def controller_counts(self) -> None:
        for job in self.cluster.job_controller.unfinished():
            self.cluster.job_controller.sync(job)

    @precondition(lambda self: self.cluster.job_controller.lacking_pods())
    @rule()
    def job_stalls(self) -> None:
        self.cluster.job_controller.stall(self.cluster.job_controller.lacking_pods()[0])

    @precondition(lambda self: self.cluster.pods)
    @rule(pick=PICK)
    def pod_is_gone_with_its_report(self, pick: int) -> None:
        self.cluster.remove(self.cluster.pods[pick % len(self.cluster.pods)])

    @precondition(lambda self: any(map(is_deleting, self.cluster.jobs)))
    @rule()
    def deleted_jobs_are_gone(self) -> None:
        for job in [item for item in self.cluster.jobs if is_deleting(item)]:
            self.cluster.garbage_collector.finish(job)

    @precondition(lambda self: self.cluster.jobs)
    @rule(pick=PICK)
    def job_is_deleted(self, pick: int) -> None:
        self.cluster.delete(self.cluster.jobs[pick % len(self.cluster.jobs)])

    @precondition(lambda self: self.cluster.kubelet.running() and self.cluster.job_controller.unfinished())
    @rule()
    def job_is_deleted_without_its_pods(self) -> None:
        self.cluster.orphan(self.cluster.job_controller.unfinished()[-1])

    @precondition(lambda self: self.cluster.queued_jobs())
    @rule(admits=st.booleans())
    def kueue_decides(self, admits: bool) -> None:
        for job in self.cluster.queued_jobs():
            (self.cluster.admit if admits else self.cluster.suspend)(job)

    @precondition(lambda self: self.cluster.job_controller.unfinished())
    @rule()
    def job_is_suspended(self) -> None:
        self.cluster.suspend(self.cluster.job_controller.unfinished()[0])

    @precondition(lambda self: self.cluster.exists)
    @rule(suspend=st.booleans())
    def user_suspends_or_resumes(self, suspend: bool) -> None:
        self.cluster.change(suspend=suspend)

    @precondition(lambda self: self.cluster.exists and self.cluster.may_change(training={}))
    @rule(variant=st.sampled_from(VARIANTS))
    def user_changes_the_spec(self, variant: Json) -> None:
        self.cluster.change(**variant)

    @precondition(lambda self: self.cluster.exists)
    @rule(seconds=st.sampled_from([None, 0, 3600]))
    def user_sets_a_lifetime(self, seconds: int | None) -> None:
        self.cluster.change(ttlSecondsAfterFinished=seconds)

    @precondition(lambda self: not self.cluster.exists)
    @rule(spec=SPECS)
    def user_applies_it_again(self, spec: Json) -> None:
        self.cluster.apply_again(**spec)

    @precondition(lambda self: self.cluster.exists)
    @rule(collected=st.booleans())
    def user_deletes_it(self, collected: bool) -> None:
        """The garbage collector may miss that."""
        (self.cluster.delete if collected else self.cluster.remove)(self.cluster.job)

    @precondition(lambda self: self.cluster.exists)
    @rule()
    def status_is_lost(self) -> None:
        self.cluster.job.pop("status", None)

    @rule(seconds=st.sampled_from([1, 100, 10000]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.wait(seconds)

    @precondition(lambda self: self.cluster.exists)
    @rule(moves=st.integers(1, 3))
    def cluster_works_for_a_while(self, moves: int) -> None:
        """Makes the later stages likely."""
        for _ in range(moves):
            if self.cluster.exists:
                self.reconcile()
                self.cluster.controllers_run()

    # At the end all controllers work, and the run ends.

    def teardown(self) -> None:
        cluster = self.cluster
        if not cluster.exists:
            return
        cluster.change(suspend=False, ttlSecondsAfterFinished=None)
        cluster.controllers_run()
        for _ in range(MAX_RECONCILES):
            if not cluster.is_due(self.requeue_after):
                break
            self.reconcile()
            cluster.controllers_run()
        assert cluster.status["phase"] in ENDED, cluster.status
        assert self.requeue_after is None
        assert all(owned_by(job, uid(cluster.job)) for job in cluster.jobs), "no Job of a namesake is left"


@pytest.mark.lifecycle("job-deleted")
def test_every_job_ends() -> None:
    run_state_machine_as_test(FineTuneJobLife, settings=PROFILE)


def test_resting_phases() -> None:
    assert {*ENDED, "Suspended"} < set(RESTING)
