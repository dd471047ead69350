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

from support.builders import FOREIGN_SERVICE, NEW, NEWEST, NOW, OLD, SETTINGS, artifact
from support.randomworlds import PICK, PROFILE
from support.serving import FOLLOWS, Serving
from tuneyard_api import names, reasons
from tuneyard_api.kinds.modelserver import ModelServerStatus
from tuneyard_operator.machinery.objects import Json, is_deleting, key_of, label, name
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.modelserver.artifact import release_of

DIGESTS: Final = (OLD, NEW, NEWEST)
MODELS: Final = st.sampled_from([*map(artifact, DIGESTS), FOLLOWS])
KINDS: Final = ("ModelServer", "Deployment", "Pod", "Service", "FineTuneJob")
ROOM: Final = ("MakingRoom", "RoomMade")  # the phases in which the revision that serves is scaled down
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
    cluster: Serving
    requeue_after: float | None = 0.0
    selected: str | None = None
    selected_at: datetime = NOW

    @initialize(model=MODELS, replicas=REPLICAS)
    def applied(self, model: Json, replicas: int) -> None:
        self.cluster = Serving(model, own_writes_enqueue=False, replicas=replicas)
        self.publish(OLD)
        self.cluster.sync()

    # What the operator does, and what must hold.

    @rule(kinds=KIND_LISTS, rejection=st.sampled_from([None, None, None, None, "exceeded quota", "Invalid value"]))
    def operator_reconciles(self, kinds: Sequence[str], rejection: str | None) -> None:
        if kinds:
            self.cluster.sync(*kinds)
        self.reconcile(rejection)

    @rule()
    def operator_is_killed_before_the_status(self) -> None:
        self.cluster.sync()
        self.act(self.cluster.plan())
        self.requeue_after = 0.0  # the next operator reconciles at once

    def reconcile(self, rejected: str | None = None) -> None:
        cluster = self.cluster
        cluster.queue.clear()
        before = cluster.cached.get("status", {})
        step = cluster.plan()
        if rejected and step.apply:
            what = step.apply[0]
            final = rejected.startswith("Invalid")
            cluster.rejection = Rejection(f"{what['kind']} {name(what)}", rejected, final=final)
            step, cluster.rejection = cluster.plan(), None
            assert conditions_of(step.status)["Degraded"]["reason"] == "Refused"
        else:
            rejected = None
        self.failed_gate_is_not_served(before, step.status)
        ready = self.ready_revisions()  # before the answers to the plan's own writes
        if not rejected:
            self.act(step)
        self.conditions_are_true(step.status, ready)
        self.failure_is_kept(before, step.status)
        written = cluster.write_status(step)
        self.requeue_after = step.requeue_after if written and not rejected else 0.0  # tried again by the queue
        if written and not rejected:
            self.is_idempotent(step)

    def act(self, step: Plan) -> None:
        """The revision that serves keeps its pods until another one is ready."""
        cluster = self.cluster
        serving, selected = self.serving(), cluster.selected()
        for item in step.delete:
            revision = label(item, names.LABEL_REVISION)
            is_idle = cluster.cached["spec"]["replicas"] == 0 and revision not in self.ready_revisions()
            assert revision != selected or is_idle, "it has the traffic"
            assert revision != serving or (selected and self.is_ready(selected)), "nothing else answers"
            since = (cluster.now - self.selected_at).total_seconds()
            assert since >= SETTINGS.retire or not cluster.is_observed("Service"), "connections may still use it"
        assert not any(map(is_deleting, self.cached_objects(step.apply))), "it is being deleted"
        for item in step.apply:
            self.replicas_are_allowed(item, serving, step)
        pointed = [item["spec"]["selector"][names.LABEL_REVISION] for item in step.apply if item["kind"] == "Service"]
        for revision in pointed:
            assert serving in (None, revision) or self.is_fit(revision), f"{revision} is not ready, {serving} serves"
        cluster.act(step)

    def serving(self) -> str | None:
        """The revision that the operator knows to serve."""
        if answers := self.answering():
            return answers
        found = self.cluster.cached.get("status", {}).get("served", {}).get("revision")
        return str(found) if found and self.cluster.revision(found) else None

    def answering(self) -> str | None:
        """The revision that the Service points to, where a replica of it is ready."""
        selected = self.cluster.selected(cached=True)
        return selected if selected in self.ready_revisions() else None

    def ready_revisions(self) -> set[str]:
        cached = self.cluster.cache.children("Deployment", self.cluster.key)
        ready = [item for item in cached if item["status"].get("readyReplicas") and not is_deleting(item)]
        return {label(item, names.LABEL_REVISION) for item in ready}

    def is_fit(self, revision: str) -> bool:
        """It is ready and was not rolled back."""
        failed = self.cluster.cached.get("status", {}).get("failed", {})
        makes_room = self.cluster.cached.get("status", {}).get("rollout", {}).get("phase") in ROOM
        is_half_ready = makes_room and revision in self.ready_revisions()
        return failed.get("revision") != revision and (is_half_ready or self.is_ready(revision))

    def is_ready(self, revision: str) -> bool:
        """It has as many ready replicas as the spec wants."""
        server, existing = self.cluster.cached, self.cluster.revision(revision)
        if existing is None:
            return False
        status, wanted = existing["status"], existing["spec"]["replicas"]
        current = status.get("observedGeneration", 0) >= existing["metadata"]["generation"]
        return bool(current and status.get("readyReplicas", 0) >= wanted == server["spec"]["replicas"])

    def replicas_are_allowed(self, applied: Json, serving: str | None, step: Plan) -> None:
        if applied["kind"] != "Deployment":
            return
        server, revision = self.cluster.cached, label(applied, names.LABEL_REVISION)
        failed, replicas = server.get("status", {}).get("failed", {}).get("revision"), applied["spec"]["replicas"]
        if revision == failed and serving not in (None, revision):
            assert replicas == 0, "it was rolled back"
        elif revision == serving and replicas != server["spec"]["replicas"]:
            assert step.status["rollout"]["phase"] in ROOM, "the revision that serves is not scaled down"
            assert self.cluster.lacks_room(step.status["rollout"]["revision"]), "for nothing"

    def conditions_are_true(self, status: Json, ready: set[str]) -> None:
        """The conditions agree with the operator's cache; `ready`: the revisions that had a ready replica there."""
        cluster, found = self.cluster, conditions_of(status)
        ModelServerStatus.model_validate(status)
        selected = cluster.selected(cached=True)
        answers = selected if selected in ready else None
        assert is_condition_true(status, "Available") == bool(answers)
        if answers:
            assert status["served"]["revision"] == answers
        if found["Progressing"]["reason"] == "Completed" and selected and self.is_ready(selected):
            assert found.get("Degraded", {}).get("reason") in (None, "Refused"), "all is well"
        if "ArtifactVerified" in found and is_condition_true(status, "ArtifactVerified"):
            assert found["ArtifactVerified"]["message"] in cluster.kubelet.verified
        for item in status["conditions"]:
            assert item["message"], item

    def failed_gate_is_not_served(self, before: Json, after: Json) -> None:
        """A release of which a gate failed is not taken."""
        if self.cluster.follows_failed_gate() and "release" in after:
            existing = map(release_of, self.cluster.cache.children("Deployment", self.cluster.key))
            assert after["release"] in (before.get("release"), *(release.wire() for release in existing))

    def failure_is_kept(self, before: Json, after: Json) -> None:
        """Until the spec asks for another revision."""
        follows = self.cluster.cached["spec"]["model"] == FOLLOWS
        same = before.get("observedGeneration") == after["observedGeneration"] and not follows
        if same and "failed" in before and before.get("served") == after.get("served"):
            assert after["failed"] == before["failed"]

    def is_idempotent(self, first: Plan) -> None:
        if any(map(is_deleting, self.cached_objects(first.apply))):
            return  # its own write has changed what it observes
        second = self.cluster.plan()
        assert (second.apply, second.delete) == ([], [])
        # The status of a plan describes the Deployments before its own writes.
        if all(item["kind"] != "Deployment" for item in [*first.apply, *first.delete]):
            assert second.events == []
            assert second.status == first.status

    def cached_objects(self, objects: Iterable[Json]) -> Iterator[Json]:
        """As the operator has cached them."""
        yield from filter(None, (self.cluster.cache.get(*key_of(item)) for item in objects))

    @invariant()
    def notes_the_switch(self) -> None:
        selected = self.cluster.selected()
        if selected != self.selected:
            self.selected, self.selected_at = selected, self.cluster.now

    @invariant()
    def is_never_stuck(self) -> None:
        """Without changes and without a requeue, it is done, or waits for something that it names."""
        cluster = self.cluster
        if cluster.is_enqueued() or self.requeue_after is not None:
            return
        status = cluster.server["status"]
        assert (
            (is_condition_true(status, "Available") and conditions_of(status)["Progressing"]["reason"] == "Completed")
            or conditions_of(status)["Progressing"]["reason"] in WAITING_REASONS
            or conditions_of(status)["Available"]["reason"] == "ScaledToZero"
            or "Degraded" in conditions_of(status)
            or any(map(is_deleting, cluster.of_kind("Deployment")))
            or cluster.has_work()
        ), status

    # What happens to it.

    @rule()
    def controller_settles(self) -> None:
        self.cluster.sync_deployments()

    @precondition(lambda self: self.cluster.kubelet.starting())
    @rule(pick=PICK)
    def pod_advances(self, pick: int) -> None:
        pods = self.cluster.kubelet.starting()
        self.cluster.kubelet.advance(pods[pick % len(pods)])

    @precondition(lambda self: self.cluster.kubelet.ready())
    @rule(pick=PICK)
    def engine_crashes_repeatedly(self, pick: int) -> None:
        pods = self.cluster.kubelet.ready()
        pod = pods[pick % len(pods)]
        for _ in range(4):
            self.cluster.kubelet.crash(pod)
        self.controller_settles()
        self.cluster.sync()
        self.reconcile()

    @precondition(lambda self: self.cluster.kubelet.ready())
    @rule(pick=PICK)
    def pod_is_deleted(self, pick: int) -> None:
        pods = self.cluster.kubelet.ready()
        self.cluster.delete(pods[pick % len(pods)])

    @rule(what=st.sampled_from(["store_answers", "registry_answers", "nodes_have_room", "engine_works"]))
    def something_breaks_or_recovers(self, what: str) -> None:
        setattr(self.cluster.kubelet, what, not getattr(self.cluster.kubelet, what))

    @rule(
        digest=st.sampled_from(DIGESTS),
        why=st.sampled_from([None, reasons.ARTIFACT_CORRUPT, reasons.ARTIFACT_NOT_FOUND]),
    )
    def artifact_changes(self, digest: str, why: str | None) -> None:
        self.cluster.kubelet.broken = {**self.cluster.kubelet.broken, digest: why} if why else {}

    @precondition(lambda self: self.cluster.deployments)
    @rule(pick=PICK)
    def deployment_is_deleted(self, pick: int) -> None:
        self.cluster.delete(self.cluster.deployments[pick % len(self.cluster.deployments)])

    @precondition(lambda self: self.cluster.deployments)
    @rule(pick=PICK, replicas=REPLICAS)
    def deployment_is_scaled_by_hand(self, pick: int, replicas: int) -> None:
        self.cluster.deployments[pick % len(self.cluster.deployments)]["spec"]["replicas"] = replicas

    @precondition(lambda self: self.cluster.deployments)
    @rule(pick=PICK)
    def deployment_stalls(self, pick: int) -> None:
        self.cluster.deployment_controller.stall(self.cluster.deployments[pick % len(self.cluster.deployments)])

    @rule()
    def garbage_collector_runs(self) -> None:
        self.cluster.collect()

    @rule(services=st.sampled_from([[], [], [FOREIGN_SERVICE]]))
    def service_is_replaced(self, services: list[Json]) -> None:
        self.cluster.replace_service(*services)
        self.cluster.sync("Service")  # a name that is taken at the moment of a write is another test
        self.requeue_after = 0.0

    @precondition(lambda self: self.cluster.selected())
    @rule()
    def service_is_redirected(self) -> None:
        self.cluster.redirect_service()

    @rule(model=MODELS)
    def user_changes_the_model(self, model: Json) -> None:
        self.cluster.change(model=model)

    @rule(replicas=REPLICAS)
    def user_scales(self, replicas: int) -> None:
        self.cluster.change(replicas=replicas)

    @rule(length=st.sampled_from([None, 512, 1]))
    def user_sets_an_option(self, length: int | None) -> None:
        """The last value is rejected by the schema."""
        self.cluster.change(vllm={"maxModelLen": length} if length else {})

    @rule(digest=st.sampled_from(DIGESTS), passed=st.booleans(), followed=st.booleans())
    def job_publishes(self, digest: str, passed: bool, followed: bool) -> None:
        if followed:
            self.cluster.change(model=FOLLOWS)
            self.cluster_works_for_a_while(4)
        self.publish(digest, passed=passed)

    def publish(self, digest: str, *, passed: bool = True) -> None:
        """A release that makes the same revision as a ModelServer that names its artifact."""
        self.cluster.publish(
            digest,
            spec={"output": {"uri": "s3://artifacts"}},
            artifacts=[{"format": "bf16", **artifact(digest)}],
            recommended={"format": "bf16"},
            evaluation={"gates": [{"passed": passed}]},
        )

    @rule()
    def job_trains_again(self) -> None:
        self.cluster.train()

    @rule()
    def job_is_deleted(self) -> None:
        self.cluster.delete_job()

    @rule()
    def status_is_lost(self) -> None:
        self.cluster.server.pop("status", None)

    @rule(seconds=st.sampled_from([1, 10, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.wait(seconds)

    @rule(digest=st.sampled_from(DIGESTS), replicas=REPLICAS)
    def bad_release_is_rolled_back(self, digest: str, replicas: int) -> None:
        """The revision that serves keeps serving."""
        self.cluster_works_for_a_while(6)
        self.cluster.kubelet.broken[digest] = reasons.ARTIFACT_CORRUPT
        self.cluster.change(model=artifact(digest))
        self.cluster_works_for_a_while(6)
        self.cluster.change(replicas=replicas)
        self.cluster_works_for_a_while(2)

    @rule(moves=st.integers(1, 6))
    def cluster_works_for_a_while(self, moves: int) -> None:
        """Makes complete rollouts likely."""
        for _ in range(moves):
            self.cluster.sync()
            self.reconcile()
            self.notes_the_switch()
            self.cluster.controllers_run()

    # At the end all controllers work, and the ModelServer comes to rest.

    def teardown(self) -> None:
        cluster = self.cluster
        cluster.recover()
        cluster.controllers_run()
        for _ in range(MAX_RECONCILES):
            if not cluster.is_due(self.requeue_after):
                break
            self.reconcile()
            self.notes_the_switch()
            cluster.controllers_run()
        assert self.requeue_after is None and not cluster.is_enqueued(), "it comes to rest"
        self.ends_as_specified()
        cluster.wait(100000)
        self.is_idempotent(cluster.plan())
        assert cluster.plan().status == cluster.server["status"]

    def ends_as_specified(self) -> None:
        cluster, status = self.cluster, self.cluster.server["status"]
        found, replicas = conditions_of(status), cluster.server["spec"]["replicas"]
        if (reason := found["Progressing"]["reason"]) in (reasons.INVALID_SPEC, reasons.SCALED_TO_ZERO):
            assert reason == reasons.INVALID_SPEC or (replicas == 0 and len(cluster.of_kind("Deployment")) <= 1)
            return  # everything stays as it was
        served = cluster.revision(status.get("served", {}).get("revision"))
        if served and replicas and release_of(served).digest not in cluster.kubelet.broken:
            assert is_condition_true(status, "Available")
        if found["Progressing"]["reason"] in WAITING_REASONS:
            assert status.get("release", {}).get("digest") == status.get("served", {}).get("digest"), "none is lost"
            return
        if "Degraded" in found:
            wanted = reasons.ARTIFACT_CORRUPT, reasons.ARTIFACT_NOT_FOUND
            assert "failed" in status or (cluster.kubelet.broken and found["Degraded"]["reason"] in wanted)
            return
        assert served and found["Progressing"]["reason"] == "Completed"
        assert len(cluster.of_kind("Deployment")) == 1
        assert cluster.server["spec"]["model"] in (FOLLOWS, artifact(status["served"]["digest"]))


def test_modelserver_always_serves() -> None:
    run_state_machine_as_test(ModelServerLife, settings=PROFILE)
