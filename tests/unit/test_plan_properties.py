"""The plan of a FineTuneJob in random worlds: it is never stuck, repeats nothing and undoes nothing."""

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

from support.randomworlds import PICK, PROFILE
from support.simulatedworld import SimulatedWorld, variant
from tuneyard_api import names
from tuneyard_api.kinds.finetunejob import RESTING
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.runs import revision
from tuneyard_api.stages import STAGES
from tuneyard_operator.machinery.objects import Json, is_deleting, label, name, owned_by, uid
from tuneyard_operator.machinery.plan import Plan, Rejection

RANK: Final = {"Pending": 0, "Running": 1, "Succeeded": 2, "Adopted": 2, "Failed": 2}
ENDED: Final = ("Succeeded", "Failed")
# Exit codes; None: the pod vanishes. Most stages succeed.
ENDINGS: Final = st.sampled_from([0, 0, 0, 0, 1, 1, names.EXIT_TRY_AGAIN, names.EXIT_BAD_INPUT, None])
SPECS: Final = st.fixed_dictionaries(
    {}, optional={"suspend": st.booleans(), "queueName": st.just("gpus"), "retryPolicy": st.just({"backoffLimit": 1})}
)
# More reconciles than the longest chain needs: five stages, each created, started, ended and settled; and, at one every
# ten seconds, the quarter of an hour after which a Job is recreated that stalled during its back-off.
ENOUGH: Final = 160


def states(status: Json) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in status.get("stages", [])}


class FineTuneJobLife(RuleBasedStateMachine):
    world: SimulatedWorld
    requeue_after: float | None = None

    @initialize(spec=SPECS)
    def applied(self, spec: Json) -> None:
        self.world = SimulatedWorld(spec)

    # What the operator does, and what must be true of it.

    @precondition(lambda self: self.world.job)
    @rule(rejection=st.sampled_from([None, None, None, None, "exceeded quota", "Invalid value"]))
    def operator_reconciles(self, rejection: str | None) -> None:
        self.reconcile(rejection)

    @precondition(lambda self: self.world.job)
    @rule()
    def operator_is_killed_between_the_act_and_the_status(self) -> None:
        before = self.world.job.get("status") if self.world.job else None
        self.world.act(self.world.plan())
        if self.world.job and before is None:
            del self.world.job["status"]
        elif self.world.job:
            self.world.job["status"] = before
        self.world.changed = True

    def reconcile(self, refused: str | None = None) -> None:
        world = self.world
        before = (world.job or {}).get("status", {})
        step = world.plan()
        if refused and step.create:
            step = world.plan(Rejection(name(step.create[0]), refused, final=refused.startswith("Invalid")))
        self.check_plan(before, step)
        world.changed = False
        self.again = 1.0 if refused else step.requeue_after  # a rejection is tried again by the queue
        written = SimulatedWorld.__new__(SimulatedWorld)
        written.__dict__ |= world.__dict__ | {"job": dict(world.job or {})}
        written.write(step)
        if not refused:
            self.check_idempotence(step, written.plan())
        world.act(step)

    def check_plan(self, before: Json, step: Plan) -> None:
        world = self.world
        assert world.job
        FineTuneJobStatus.model_validate(step.status)
        if world.job in step.delete:
            assert before["phase"] in ENDED, "only a FineTuneJob that has ended is deleted"
            return
        assert step.status["observedGeneration"] == world.job["metadata"]["generation"]
        self.check_created(step)
        if before.get("revision") == revision(world.job):
            self.check_progress(before, step)

    def check_created(self, step: Plan) -> None:
        world = self.world
        there = {name(job) for job in world.jobs}
        for created in step.create:
            stage = label(created, names.LABEL_STAGE)
            assert not (world.job or {})["spec"].get("suspend")
            assert name(created) not in there, "nothing is created while it exists, or is being deleted"
            assert stage != "train" or not world.stage_pods("train"), "two pods never write the same checkpoint"
            assert states(step.status)[stage] == "Pending", "a stage that is done does not run again"

    def check_progress(self, before: Json, step: Plan) -> None:
        world = self.world
        if before["phase"] in ENDED:
            assert {**step.status, "conditions": [], "observedGeneration": 0} == {
                **before,
                "conditions": [],
                "observedGeneration": 0,
            }
            assert not step.create
        was, now = states(before), states(step.status)
        for stage in STAGES:
            if RANK[now[stage]] < RANK[was[stage]]:
                live = [
                    pod
                    for pod in world.stage_pods(stage)
                    if not is_deleting(pod) and pod["metadata"]["ownerReferences"]
                ]
                stopped = step.delete or any(map(is_deleting, world.jobs))
                assert (was[stage], now[stage]) == ("Running", "Pending")
                assert stopped or not live, "its pod still runs"
        for counted in ("preempted", "failed"):
            assert step.status["restarts"][counted] >= before["restarts"][counted]

    def check_idempotence(self, first: Plan, second: Plan) -> None:
        if first.status["phase"] in ENDED or first.delete:
            return  # leftovers are deleted next; and deletions come before the write of the status
        assert second.status == first.status
        assert (second.delete, second.create) == ([], first.create)

    @invariant()
    def is_never_stuck(self) -> None:
        """Without an event and without a requeue, the status names what it waits for."""
        world = self.world
        if world.changed or self.again or not world.job:
            return
        status = world.job["status"]
        assert (
            status["phase"] in (*ENDED, "Suspended")
            or any(is_deleting(job) for job in world.jobs)
            or world.running()
            or any(name(job) in str(status["conditions"]) or "queue gpus" in str(status) for job in world.jobs)
            or any(world.decided(job) for job in world.unfinished())
        ), status

    # What else happens in the cluster.

    @precondition(lambda self: self.world.startable())
    @rule(pick=PICK)
    def pod_starts(self, pick: int) -> None:
        jobs = self.world.startable()
        self.world.start_pod(jobs[pick % len(jobs)])

    @precondition(lambda self: self.world.running())
    @rule(pick=PICK, ending=ENDINGS, readable=st.sampled_from([True, True, True, False]), settles=st.booleans())
    def pod_ends(self, pick: int, ending: int | None, readable: bool, settles: bool) -> None:
        pods = self.world.running()
        pod = pods[pick % len(pods)]
        if ending is None:
            self.world.vanish(pod)
        else:
            self.world.end_pod(pod, ending, readable=readable)
            if settles:
                self.controller_settles()

    @precondition(lambda self: self.world.unfinished())
    @rule()
    def controller_settles(self) -> None:
        for job in self.world.unfinished():
            self.world.settle(job)

    @precondition(lambda self: self.world.startable())
    @rule()
    def controller_stalls(self) -> None:
        self.world.forget(self.world.startable()[0])

    @precondition(lambda self: self.world.pods)
    @rule(pick=PICK)
    def pod_vanishes_with_its_report(self, pick: int) -> None:
        self.world.vanish(self.world.pods[pick % len(self.world.pods)])

    @precondition(lambda self: any(map(is_deleting, self.world.jobs)))
    @rule()
    def deleted_jobs_are_gone(self) -> None:
        for job in [job for job in self.world.jobs if is_deleting(job)]:
            self.world.collect(job)

    @precondition(lambda self: self.world.jobs)
    @rule(pick=PICK)
    def someone_deletes_a_job(self, pick: int) -> None:
        self.world.request_deletion(self.world.jobs[pick % len(self.world.jobs)])

    @precondition(lambda self: self.world.running() and self.world.unfinished())
    @rule()
    def someone_orphans_a_pod(self) -> None:
        self.world.orphan(self.world.unfinished()[-1])

    @precondition(lambda self: self.world.queued())
    @rule(admits=st.booleans())
    def kueue_decides(self, admits: bool) -> None:
        for job in self.world.queued():
            (self.world.admit if admits else self.world.preempt)(job)

    @precondition(lambda self: self.world.unfinished())
    @rule()
    def someone_suspends_a_job(self) -> None:
        self.world.preempt(self.world.unfinished()[0])

    @precondition(lambda self: self.world.job)
    @rule(suspend=st.booleans())
    def user_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.change({"suspend": suspend})

    @precondition(lambda self: self.world.job and self.world.may_change({"training": {}}))
    @rule(number=st.integers(0, 2))
    def user_changes_the_spec(self, number: int) -> None:
        self.world.change(variant(number))

    @precondition(lambda self: self.world.job)
    @rule(seconds=st.sampled_from([None, 0, 3600]))
    def user_sets_a_lifetime(self, seconds: int | None) -> None:
        self.world.change({"ttlSecondsAfterFinished": seconds})

    @precondition(lambda self: not self.world.job)
    @rule(spec=SPECS)
    def user_applies_it_again(self, spec: Json) -> None:
        self.world.apply(spec)

    @precondition(lambda self: self.world.job)
    @rule(collected=st.booleans())
    def user_deletes_it(self, collected: bool) -> None:
        self.world.delete(collected=collected)

    @precondition(lambda self: self.world.job)
    @rule()
    def status_is_reset(self) -> None:
        if self.world.job and self.world.job.pop("status", None):
            self.world.changed = True

    @rule(seconds=st.sampled_from([1, 100, 10000]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: self.world.job)
    @rule(moves=st.integers(1, 3))
    def all_goes_well_for_a_while(self, moves: int) -> None:
        """Reaches the later stages."""
        for _ in range(moves):
            if self.world.job:
                self.reconcile()
                self.world.everybody_moves()

    # In the end everybody does what is expected.

    def teardown(self) -> None:
        if not self.world.job:
            return
        self.world.change({"suspend": False, "ttlSecondsAfterFinished": None})
        for _ in range(ENOUGH):
            if not self.is_enqueued():
                break
            self.reconcile()
            self.world.everybody_moves()
        assert self.world.job["status"]["phase"] in ENDED, self.world.job["status"]
        assert self.again is None
        assert all(owned_by(job, uid(self.world.job)) for job in self.world.jobs), "no Job of a namesake remains"

    def is_enqueued(self) -> bool:
        """The operator reconciles only at an event, or after the time that it has asked for."""
        if not self.world.changed and self.again:
            self.world.wait(self.again)
            return True
        return self.world.changed


@pytest.mark.lifecycle("job-deleted")
def test_every_job_ends() -> None:
    run_state_machine_as_test(FineTuneJobLife, settings=PROFILE)


def test_resting_phases() -> None:
    assert {*ENDED, "Suspended"} < set(RESTING)
