"""The plan of a ModelServer in worlds that nobody thought of: it never gets stuck, and never takes away what serves."""

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
from support.simulatedserving import DIGESTS, FOLLOWS, KINDS, THEIRS, ServedWorld, direct
from tuneyard_api import names, reasons
from tuneyard_api.kinds.modelserver import ModelServerStatus
from tuneyard_operator.machinery.objects import Json, is_deleting, label, name
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.modelserver.artifact import release_of

MODELS: Final = st.sampled_from([direct(0), direct(1), direct(2), FOLLOWS])
REPLICAS: Final = st.sampled_from([0, 1, 1, 1, 2])
# Of which kinds the operator has heard the news before it looks; mostly of all.
HEARS: Final = st.one_of(st.just(KINDS), st.just(KINDS), st.lists(st.sampled_from(KINDS), unique=True))
# Reasons of Progressing that say what is waited for.
WAITS: Final = ("WaitingForFineTuneJob", reasons.GATE_FAILED, reasons.INVALID_SPEC)
# More looks and moves than the longest way needs: a revision comes up and takes over, the one before goes.
ENOUGH: Final = 60


def said(status: Json) -> dict[str, Json]:
    return {each["type"]: each for each in status["conditions"]}


def is_condition_true(status: Json, kind: str) -> bool:
    return bool(said(status)[kind]["status"] == "True")


class ModelServerLife(RuleBasedStateMachine):
    world: ServedWorld
    requeue_after: float | None = 0.0
    selected: str | None = None
    selected_at: datetime = NOW

    @initialize(model=MODELS, replicas=REPLICAS)
    def applied(self, model: Json, replicas: int) -> None:
        self.world = ServedWorld(model, replicas)
        self.world.hears(*KINDS)

    # What the operator does, and what must hold.

    @rule(hears=HEARS, rejection=st.sampled_from([None, None, None, None, "exceeded quota", "Invalid value"]))
    def operator_looks(self, hears: Sequence[str], rejection: str | None) -> None:
        self.world.hears(*hears)
        self.look(rejection)

    @rule()
    def operator_is_killed_between_the_act_and_the_status(self) -> None:
        self.world.hears(*KINDS)
        self.act(self.world.plan())
        self.requeue_after = 0.0  # the next one looks at once

    def look(self, refused: str | None = None) -> None:
        world = self.world
        before = world.heard["ModelServer"][0].get("status", {})
        step = world.plan()
        if refused and step.apply:
            what = step.apply[0]
            step = world.plan(Rejection(f"{what['kind']} {name(what)}", refused, final=refused.startswith("Invalid")))
            assert said(step.status)["Degraded"]["reason"] == "Refused"
        else:
            refused = None
            self.act(step)
        self.is_true(step.status)
        self.gives_up_once(before, step.status)
        written = world.write(step)
        self.requeue_after = step.requeue_after if written and not refused else 0.0  # tried again by the queue
        if written and not refused:
            self.is_the_same_again(step)

    def act(self, step: Plan) -> None:
        """What serves goes on serving until another revision is ready."""
        world = self.world
        serving, selected = self.serving(), world.selected(world.there)
        for each in step.delete:
            revision = label(each, names.LABEL_REVISION)
            assert revision != selected, "it has the traffic"
            assert revision != serving or (selected and self.is_ready(selected)), "nothing else answers"
            since = (world.now - self.selected_at).total_seconds()
            assert since >= SETTINGS.retire or "Service" in world.news, "connections still know it"
        assert not any(map(is_deleting, self.heard_of(step.apply))), "nothing is written onto what goes away"
        for each in step.apply:
            self.scales_as_it_may(each, serving)
        pointed = [each["spec"]["selector"][names.LABEL_REVISION] for each in step.apply if each["kind"] == "Service"]
        for revision in pointed:
            assert serving in (None, revision) or self.is_fit(revision), f"{revision} is not ready, {serving} serves"
        world.act(step)

    def serving(self) -> str | None:
        """The revision that the operator knows to serve."""
        if answers := self.answering():
            return answers
        told = self.world.heard["ModelServer"][0].get("status", {}).get("served", {}).get("revision")
        return str(told) if told and self.world.revision(told) else None

    def answering(self) -> str | None:
        """The revision that the Service points to, where a replica of it is ready."""
        selected = self.world.selected(self.world.heard)
        there = self.world.revision(selected)
        return selected if there and there["status"].get("readyReplicas") else None

    def is_fit(self, revision: str) -> bool:
        """It is ready and was not given up."""
        failed = self.world.heard["ModelServer"][0].get("status", {}).get("failed", {})
        return failed.get("revision") != revision and self.is_ready(revision)

    def is_ready(self, revision: str) -> bool:
        """It has as many ready replicas as the spec wants."""
        server, there = self.world.heard["ModelServer"][0], self.world.revision(revision)
        if there is None:
            return False
        status, wanted = there["status"], there["spec"]["replicas"]
        current = status.get("observedGeneration", 0) >= there["metadata"]["generation"]
        return bool(current and status.get("readyReplicas", 0) >= wanted == server["spec"]["replicas"])

    def scales_as_it_may(self, applied: Json, serving: str | None) -> None:
        if applied["kind"] != "Deployment":
            return
        server, revision = self.world.heard["ModelServer"][0], label(applied, names.LABEL_REVISION)
        given_up = server.get("status", {}).get("failed", {}).get("revision")
        replicas = applied["spec"]["replicas"]
        if revision == given_up and serving not in (None, revision):
            assert replicas == 0, "it was given up"
        elif revision == serving:
            assert replicas == server["spec"]["replicas"], "what serves is not taken back"

    def is_true(self, status: Json) -> None:
        """The conditions agree with what the operator has heard."""
        world, told = self.world, said(status)
        ModelServerStatus.model_validate(status)
        selected, answers = world.selected(world.heard), self.answering()
        assert is_condition_true(status, "Available") == bool(answers)
        if answers:
            assert status["served"]["revision"] == answers
        if told["Progressing"]["reason"] == "Completed" and selected and self.is_ready(selected):
            assert told.get("Degraded", {}).get("reason") in (None, "Refused"), "all is well"
        if "ArtifactVerified" in told and is_condition_true(status, "ArtifactVerified"):
            assert told["ArtifactVerified"]["message"] in world.verified
        for each in status["conditions"]:
            assert each["message"], each

    def gives_up_once(self, before: Json, after: Json) -> None:
        """Until the spec asks for another revision."""
        world = self.world
        model = world.heard["ModelServer"][0]["spec"]["model"]
        same = before.get("observedGeneration") == after["observedGeneration"] and model != FOLLOWS
        if same and "failed" in before and before.get("served") == after.get("served"):
            assert after["failed"] == before["failed"]

    def is_the_same_again(self, first: Plan) -> None:
        if any(map(is_deleting, self.heard_of(first.apply))):
            return  # its own write has told it something new
        second = self.world.plan()
        assert (second.apply, second.delete) == ([], [])
        if all(each["kind"] != "Deployment" for each in first.apply):  # or else its status is of the Deployment before
            assert second.events == []
            assert second.status == first.status

    def heard_of(self, things: Iterable[Json]) -> Iterator[Json]:
        """As the operator knows them."""
        for each in things:
            yield from (there for there in self.world.heard[each["kind"]] if name(there) == name(each))

    @invariant()
    def remembers_the_switch(self) -> None:
        selected = self.world.selected(self.world.there)
        if selected != self.selected:
            self.selected, self.selected_at = selected, self.world.now

    @invariant()
    def is_never_stuck(self) -> None:
        """With nothing to hear and no clock set, it is done, or waits for something that it names."""
        world = self.world
        if world.news or self.requeue_after is not None:
            return
        status = world.server["status"]
        assert (
            (is_condition_true(status, "Available") and said(status)["Progressing"]["reason"] == "Completed")
            or said(status)["Progressing"]["reason"] in WAITS
            or said(status)["Available"]["reason"] == "ScaledToZero"
            or "Degraded" in said(status)
            or any(map(is_deleting, world.there["Deployment"]))
            or world.is_at_work()
        ), status

    # What happens to it.

    @rule()
    def controller_settles(self) -> None:
        for each in self.world.deployments:
            self.world.settle(each)

    @precondition(lambda self: self.world.working())
    @rule(pick=PICK)
    def pod_gets_on(self, pick: int) -> None:
        pods = self.world.working()
        self.world.advance(pods[pick % len(pods)])

    @precondition(lambda self: self.world.ready())
    @rule(pick=PICK)
    def engine_crashes_again_and_again(self, pick: int) -> None:
        pods = self.world.ready()
        pod = pods[pick % len(pods)]
        for _ in range(4):
            self.world.crash(pod)
        self.controller_settles()
        self.world.hears(*KINDS)
        self.look()

    @precondition(lambda self: self.world.ready())
    @rule(pick=PICK)
    def pod_is_taken_away(self, pick: int) -> None:
        pods = self.world.ready()
        self.world.goes(pods[pick % len(pods)])

    @rule(what=st.sampled_from(["store_answers", "registry_answers", "nodes_have_room", "engine_works"]))
    def something_breaks_or_is_mended(self, what: str) -> None:
        setattr(self.world, what, not getattr(self.world, what))

    @rule(
        digest=st.sampled_from(DIGESTS),
        why=st.sampled_from([None, reasons.ARTIFACT_CORRUPT, reasons.ARTIFACT_NOT_FOUND]),
    )
    def artifact_changes(self, digest: str, why: str | None) -> None:
        self.world.broken = {**self.world.broken, digest: why} if why else {}

    @precondition(lambda self: self.world.deployments)
    @rule(pick=PICK)
    def stranger_deletes_a_deployment(self, pick: int) -> None:
        self.world.goes(self.world.deployments[pick % len(self.world.deployments)])

    @precondition(lambda self: self.world.deployments)
    @rule(pick=PICK, replicas=REPLICAS)
    def stranger_scales_a_deployment(self, pick: int, replicas: int) -> None:
        self.world.scale(self.world.deployments[pick % len(self.world.deployments)], replicas)

    @precondition(lambda self: self.world.deployments)
    @rule(pick=PICK)
    def controller_forgets_a_deployment(self, pick: int) -> None:
        self.world.forget(self.world.deployments[pick % len(self.world.deployments)])

    @rule()
    def what_was_deleted_is_gone(self) -> None:
        self.world.collect()

    @rule(services=st.sampled_from([[], [], [THEIRS]]))
    def stranger_takes_the_service_away(self, services: list[Json]) -> None:
        self.world.replace_service(*services)
        self.world.hears("Service")  # a name that is taken at the very moment of a write is another story
        self.requeue_after = 0.0

    @precondition(lambda self: self.world.selected(self.world.there))
    @rule()
    def stranger_redirects_the_service(self) -> None:
        self.world.redirect_service()

    @rule(model=MODELS)
    def user_wants_another_model(self, model: Json) -> None:
        self.world.change({"model": model})

    @rule(replicas=REPLICAS)
    def user_scales(self, replicas: int) -> None:
        self.world.change({"replicas": replicas})

    @rule(length=st.sampled_from([None, 512, 1]))
    def user_sets_an_option(self, length: int | None) -> None:
        """The last cannot be read."""
        self.world.change({"vllm": {"maxModelLen": length} if length else {}})

    @rule(number=st.integers(0, 2), passed=st.sampled_from([True, True, False]))
    def job_publishes(self, number: int, passed: bool) -> None:
        self.world.publish(number, passed=passed)

    @rule()
    def job_trains_again(self) -> None:
        self.world.train()

    @rule()
    def job_is_deleted(self) -> None:
        self.world.forget_job()

    @rule()
    def status_is_lost(self) -> None:
        self.world.lose_status()

    @rule(seconds=st.sampled_from([1, 10, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(number=st.integers(0, 2), replicas=REPLICAS)
    def bad_release_is_given_up(self, number: int, replicas: int) -> None:
        """What serves goes on serving."""
        self.all_goes_well_for_a_while(6)
        self.world.broken[DIGESTS[number]] = reasons.ARTIFACT_CORRUPT
        self.world.change({"model": direct(number)})
        self.all_goes_well_for_a_while(6)
        self.world.change({"replicas": replicas})
        self.all_goes_well_for_a_while(2)

    @rule(moves=st.integers(1, 6))
    def all_goes_well_for_a_while(self, moves: int) -> None:
        """Brings takeovers within reach."""
        for _ in range(moves):
            self.world.hears(*KINDS)
            self.look()
            self.remembers_the_switch()
            self.world.everybody_moves()

    # And in the end everybody does what is expected, and it comes to rest.

    def teardown(self) -> None:
        world = self.world
        world.heal()
        world.everybody_moves()
        for _ in range(ENOUGH):
            if not self.is_woken():
                break
            world.hears(*KINDS)
            self.look()
            self.remembers_the_switch()
            world.everybody_moves()
        assert self.requeue_after is None and not world.news, "it comes to rest"
        self.is_where_it_should_be()
        world.wait(100000)
        self.is_the_same_again(world.plan())
        assert world.plan().status == world.server["status"]

    def is_woken(self) -> bool:
        """The operator looks only at an event, or at the time that it has asked for."""
        if not self.world.news and self.requeue_after:
            self.world.wait(self.requeue_after)
        return bool(self.world.news) or self.requeue_after is not None

    def is_where_it_should_be(self) -> None:
        world, status = self.world, self.world.server["status"]
        told, replicas = said(status), world.server["spec"]["replicas"]
        if told["Progressing"]["reason"] == reasons.INVALID_SPEC:
            return  # all stays as it was
        served = world.revision(status.get("served", {}).get("revision"))
        if served and replicas and release_of(served).digest not in world.broken:
            assert is_condition_true(status, "Available")
        if told["Progressing"]["reason"] in WAITS:
            assert status.get("release", {}).get("digest") == status.get("served", {}).get("digest"), "none is lost"
            return
        if "Degraded" in told:
            wanted = reasons.ARTIFACT_CORRUPT, reasons.ARTIFACT_NOT_FOUND
            assert "failed" in status or (world.broken and told["Degraded"]["reason"] in wanted)
            return
        assert served and told["Progressing"]["reason"] == "Completed"
        assert len(world.there["Deployment"]) == 1
        assert world.server["spec"]["model"] in (FOLLOWS, direct(DIGESTS.index(status["served"]["digest"])))


def test_modelserver_always_serves() -> None:
    run_state_machine_as_test(ModelServerLife, settings=PROFILE)
