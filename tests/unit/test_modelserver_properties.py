"""The plan of a ModelServer in random worlds: it never gets stuck, and never stops the revision that serves."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.operatorbuilders import NOW, SETTINGS
from support.randomworlds import PICK, PROFILE
from support.simulatedserving import DIGESTS, FOLLOWS, FOREIGN_SERVICE, KINDS, ServedWorld, direct
from tuneyard_api import names, reasons
from tuneyard_api.kinds.modelserver import ModelServerStatus
from tuneyard_operator.machinery.objects import Json, is_deleting, label, name
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.modelserver.artifact import release_of

MODELS: Final = st.sampled_from([direct(0), direct(1), direct(2), FOLLOWS])
REPLICAS: Final = st.sampled_from([0, 1, 1, 1, 2])
# The kinds whose changes the operator has observed before it reconciles; mostly all of them.
KIND_LISTS: Final = st.one_of(st.just(KINDS), st.just(KINDS), st.lists(st.sampled_from(KINDS), unique=True))
# Reasons of Progressing that name what the ModelServer waits for.
WAITING_REASONS: Final = ("WaitingForFineTuneJob", reasons.GATE_FAILED, reasons.INVALID_SPEC)
# More than the longest rollout needs: a revision becomes ready, gets the traffic, and the old one is deleted.
MAX_RECONCILES: Final = 60


def conditions_of(status: Json) -> dict[str, Json]:
    return {item["type"]: item for item in status["conditions"]}


def is_condition_true(status: Json, kind: str) -> bool:
    return bool(conditions_of(status)[kind]["status"] == "True")


class ModelServerLife(RuleBasedStateMachine):
    world: ServedWorld
    requeue_after: float | None = 0.0
    selected: str | None = None
    selected_at: datetime = NOW

    @initialize(model=MODELS, replicas=REPLICAS)
    def applied(self, model: Json, replicas: int) -> None:
        self.world = ServedWorld(model, replicas)
        self.world.sync_cache(*KINDS)

    # What the operator does, and what must hold.

    @rule(kinds=KIND_LISTS, rejection=st.sampled_from([None, None, None, None, "exceeded quota", "Invalid value"]))
    def operator_reconciles(self, kinds: Sequence[str], rejection: str | None) -> None:
        self.world.sync_cache(*kinds)
        self.reconcile(rejection)

    @rule()
    def operator_is_killed_before_the_status(self) -> None:
        self.world.sync_cache(*KINDS)
        self.act(self.world.plan())
        self.requeue_after = 0.0  # the next operator reconciles at once

    def reconcile(self, rejected: str | None = None) -> None:
        world = self.world
        before = world.cached["ModelServer"][0].get("status", {})
        step = world.plan()
        if rejected and step.apply:
            what = step.apply[0]
            step = world.plan(Rejection(f"{what['kind']} {name(what)}", rejected, final=rejected.startswith("Invalid")))
            assert conditions_of(step.status)["Degraded"]["reason"] == "Refused"
        else:
            rejected = None
            self.act(step)
        self.conditions_are_true(step.status)
        self.failure_is_kept(before, step.status)
        written = world.write(step)
        self.requeue_after = step.requeue_after if written and not rejected else 0.0  # tried again by the queue
        if written and not rejected:
            self.is_idempotent(step)

    def act(self, step: Plan) -> None:
        """The revision that serves keeps its pods until another one is ready."""
        world = self.world
        serving, selected = self.serving(), world.selected(world.objects)
        for item in step.delete:
            revision = label(item, names.LABEL_REVISION)
            assert revision != selected, "it has the traffic"
            assert revision != serving or (selected and self.is_ready(selected)), "nothing else answers"
            since = (world.now - self.selected_at).total_seconds()
            assert since >= SETTINGS.retire or "Service" in world.unobserved, "connections may still use it"
        assert not any(map(is_deleting, self.cached_objects(step.apply))), "it is being deleted"
        for item in step.apply:
            self.replicas_are_allowed(item, serving)
        pointed = [item["spec"]["selector"][names.LABEL_REVISION] for item in step.apply if item["kind"] == "Service"]
        for revision in pointed:
            assert serving in (None, revision) or self.is_fit(revision), f"{revision} is not ready, {serving} serves"
        world.act(step)

    def serving(self) -> str | None:
        """The revision that the operator knows to serve."""
        if answers := self.answering():
            return answers
        found = self.world.cached["ModelServer"][0].get("status", {}).get("served", {}).get("revision")
        return str(found) if found and self.world.revision(found) else None

    def answering(self) -> str | None:
        """The revision that the Service points to, where a replica of it is ready."""
        selected = self.world.selected(self.world.cached)
        existing = self.world.revision(selected)
        return selected if existing and existing["status"].get("readyReplicas") else None

    def is_fit(self, revision: str) -> bool:
        """It is ready and was not rolled back."""
        failed = self.world.cached["ModelServer"][0].get("status", {}).get("failed", {})
        return failed.get("revision") != revision and self.is_ready(revision)

    def is_ready(self, revision: str) -> bool:
        """It has as many ready replicas as the spec wants."""
        server, existing = self.world.cached["ModelServer"][0], self.world.revision(revision)
        if existing is None:
            return False
        status, wanted = existing["status"], existing["spec"]["replicas"]
        current = status.get("observedGeneration", 0) >= existing["metadata"]["generation"]
        return bool(current and status.get("readyReplicas", 0) >= wanted == server["spec"]["replicas"])

    def replicas_are_allowed(self, applied: Json, serving: str | None) -> None:
        if applied["kind"] != "Deployment":
            return
        server, revision = self.world.cached["ModelServer"][0], label(applied, names.LABEL_REVISION)
        failed = server.get("status", {}).get("failed", {}).get("revision")
        replicas = applied["spec"]["replicas"]
        if revision == failed and serving not in (None, revision):
            assert replicas == 0, "it was rolled back"
        elif revision == serving:
            assert replicas == server["spec"]["replicas"], "the revision that serves is not scaled down"

    def conditions_are_true(self, status: Json) -> None:
        """The conditions agree with the operator's cache."""
        world, found = self.world, conditions_of(status)
        ModelServerStatus.model_validate(status)
        selected, answers = world.selected(world.cached), self.answering()
        assert is_condition_true(status, "Available") == bool(answers)
        if answers:
            assert status["served"]["revision"] == answers
        if found["Progressing"]["reason"] == "Completed" and selected and self.is_ready(selected):
            assert found.get("Degraded", {}).get("reason") in (None, "Refused"), "all is well"
        if "ArtifactVerified" in found and is_condition_true(status, "ArtifactVerified"):
            assert found["ArtifactVerified"]["message"] in world.verified
        for item in status["conditions"]:
            assert item["message"], item

    def failure_is_kept(self, before: Json, after: Json) -> None:
        """Until the spec asks for another revision."""
        world = self.world
        model = world.cached["ModelServer"][0]["spec"]["model"]
        same = before.get("observedGeneration") == after["observedGeneration"] and model != FOLLOWS
        if same and "failed" in before and before.get("served") == after.get("served"):
            assert after["failed"] == before["failed"]

    def is_idempotent(self, first: Plan) -> None:
        if any(map(is_deleting, self.cached_objects(first.apply))):
            return  # its own write has changed what it observes
        second = self.world.plan()
        assert (second.apply, second.delete) == ([], [])
        # The status of a plan describes the Deployments before its own writes.
        if all(item["kind"] != "Deployment" for item in first.apply):
            assert second.events == []
            assert second.status == first.status

    def cached_objects(self, objects: Iterable[Json]) -> Iterator[Json]:
        """As the operator has cached them."""
        for item in objects:
            yield from (existing for existing in self.world.cached[item["kind"]] if name(existing) == name(item))

    @invariant()
    def notes_the_switch(self) -> None:
        selected = self.world.selected(self.world.objects)
        if selected != self.selected:
            self.selected, self.selected_at = selected, self.world.now

    @invariant()
    def is_never_stuck(self) -> None:
        """Without changes and without a requeue, it is done, or waits for something that it names."""
        world = self.world
        if world.unobserved or self.requeue_after is not None:
            return
        status = world.server["status"]
        assert (
            (is_condition_true(status, "Available") and conditions_of(status)["Progressing"]["reason"] == "Completed")
            or conditions_of(status)["Progressing"]["reason"] in WAITING_REASONS
            or conditions_of(status)["Available"]["reason"] == "ScaledToZero"
            or "Degraded" in conditions_of(status)
            or any(map(is_deleting, world.objects["Deployment"]))
            or world.has_work()
        ), status

    # What happens to it.

    @rule()
    def controller_settles(self) -> None:
        for item in self.world.deployments:
            self.world.settle(item)

    @precondition(lambda self: self.world.starting_pods())
    @rule(pick=PICK)
    def pod_advances(self, pick: int) -> None:
        pods = self.world.starting_pods()
        self.world.advance(pods[pick % len(pods)])

    @precondition(lambda self: self.world.ready_pods())
    @rule(pick=PICK)
    def engine_crashes_repeatedly(self, pick: int) -> None:
        pods = self.world.ready_pods()
        pod = pods[pick % len(pods)]
        for _ in range(4):
            self.world.crash(pod)
        self.controller_settles()
        self.world.sync_cache(*KINDS)
        self.reconcile()

    @precondition(lambda self: self.world.ready_pods())
    @rule(pick=PICK)
    def pod_is_deleted(self, pick: int) -> None:
        pods = self.world.ready_pods()
        self.world.mark_deleting(pods[pick % len(pods)])

    @rule(what=st.sampled_from(["store_answers", "registry_answers", "nodes_have_room", "engine_works"]))
    def something_breaks_or_recovers(self, what: str) -> None:
        setattr(self.world, what, not getattr(self.world, what))

    @rule(
        digest=st.sampled_from(DIGESTS),
        why=st.sampled_from([None, reasons.ARTIFACT_CORRUPT, reasons.ARTIFACT_NOT_FOUND]),
    )
    def artifact_changes(self, digest: str, why: str | None) -> None:
        self.world.broken = {**self.world.broken, digest: why} if why else {}

    @precondition(lambda self: self.world.deployments)
    @rule(pick=PICK)
    def deployment_is_deleted(self, pick: int) -> None:
        self.world.mark_deleting(self.world.deployments[pick % len(self.world.deployments)])

    @precondition(lambda self: self.world.deployments)
    @rule(pick=PICK, replicas=REPLICAS)
    def deployment_is_scaled_by_hand(self, pick: int, replicas: int) -> None:
        self.world.scale(self.world.deployments[pick % len(self.world.deployments)], replicas)

    @precondition(lambda self: self.world.deployments)
    @rule(pick=PICK)
    def deployment_stalls(self, pick: int) -> None:
        self.world.stall(self.world.deployments[pick % len(self.world.deployments)])

    @rule()
    def garbage_collector_runs(self) -> None:
        self.world.collect()

    @rule(services=st.sampled_from([[], [], [FOREIGN_SERVICE]]))
    def service_is_replaced(self, services: list[Json]) -> None:
        self.world.replace_service(*services)
        self.world.sync_cache("Service")  # a name that is taken at the moment of a write is another test
        self.requeue_after = 0.0

    @precondition(lambda self: self.world.selected(self.world.objects))
    @rule()
    def service_is_redirected(self) -> None:
        self.world.redirect_service()

    @rule(model=MODELS)
    def user_changes_the_model(self, model: Json) -> None:
        self.world.change({"model": model})

    @rule(replicas=REPLICAS)
    def user_scales(self, replicas: int) -> None:
        self.world.change({"replicas": replicas})

    @rule(length=st.sampled_from([None, 512, 1]))
    def user_sets_an_option(self, length: int | None) -> None:
        """The last value is rejected by the schema."""
        self.world.change({"vllm": {"maxModelLen": length} if length else {}})

    @rule(number=st.integers(0, 2), passed=st.sampled_from([True, True, False]))
    def job_publishes(self, number: int, passed: bool) -> None:
        self.world.publish(number, passed=passed)

    @rule()
    def job_trains_again(self) -> None:
        self.world.train()

    @rule()
    def job_is_deleted(self) -> None:
        self.world.delete_job()

    @rule()
    def status_is_lost(self) -> None:
        self.world.lose_status()

    @rule(seconds=st.sampled_from([1, 10, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(number=st.integers(0, 2), replicas=REPLICAS)
    def bad_release_is_rolled_back(self, number: int, replicas: int) -> None:
        """The revision that serves keeps serving."""
        self.cluster_works_for_a_while(6)
        self.world.broken[DIGESTS[number]] = reasons.ARTIFACT_CORRUPT
        self.world.change({"model": direct(number)})
        self.cluster_works_for_a_while(6)
        self.world.change({"replicas": replicas})
        self.cluster_works_for_a_while(2)

    @rule(moves=st.integers(1, 6))
    def cluster_works_for_a_while(self, moves: int) -> None:
        """Makes complete rollouts likely."""
        for _ in range(moves):
            self.world.sync_cache(*KINDS)
            self.reconcile()
            self.notes_the_switch()
            self.world.controllers_run()

    # At the end all controllers work, and the ModelServer comes to rest.

    def teardown(self) -> None:
        world = self.world
        world.heal()
        world.controllers_run()
        for _ in range(MAX_RECONCILES):
            if not self.is_enqueued():
                break
            world.sync_cache(*KINDS)
            self.reconcile()
            self.notes_the_switch()
            world.controllers_run()
        assert self.requeue_after is None and not world.unobserved, "it comes to rest"
        self.ends_as_specified()
        world.wait(100000)
        self.is_idempotent(world.plan())
        assert world.plan().status == world.server["status"]

    def is_enqueued(self) -> bool:
        """The operator reconciles only after a change, or at the time that it asked for."""
        if not self.world.unobserved and self.requeue_after:
            self.world.wait(self.requeue_after)
        return bool(self.world.unobserved) or self.requeue_after is not None

    def ends_as_specified(self) -> None:
        world, status = self.world, self.world.server["status"]
        found, replicas = conditions_of(status), world.server["spec"]["replicas"]
        if found["Progressing"]["reason"] == reasons.INVALID_SPEC:
            return  # everything stays as it was
        served = world.revision(status.get("served", {}).get("revision"))
        if served and replicas and release_of(served).digest not in world.broken:
            assert is_condition_true(status, "Available")
        if found["Progressing"]["reason"] in WAITING_REASONS:
            assert status.get("release", {}).get("digest") == status.get("served", {}).get("digest"), "none is lost"
            return
        if "Degraded" in found:
            wanted = reasons.ARTIFACT_CORRUPT, reasons.ARTIFACT_NOT_FOUND
            assert "failed" in status or (world.broken and found["Degraded"]["reason"] in wanted)
            return
        assert served and found["Progressing"]["reason"] == "Completed"
        assert len(world.objects["Deployment"]) == 1
        assert world.server["spec"]["model"] in (FOLLOWS, direct(DIGESTS.index(status["served"]["digest"])))


def test_modelserver_always_serves() -> None:
    run_state_machine_as_test(ModelServerLife, settings=PROFILE)
