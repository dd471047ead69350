"""The chaos tests' invariants on small histories: what is well is well, and each thing that may go wrong is found."""

import json
from typing import Any

import pytest

from chaos.invariants import (
    available_means_ready,
    ends_as_expected,
    is_quiet,
    job_conditions_were_true,
    no_orphans,
    nothing_goes_backwards,
    one_pod_at_a_time,
    services_point_to_what_was_ready,
    stages_commit_once,
    violations,
)
from chaos.watching import Expired, Record, Stream
from support.podstatus import termination

Json = dict[str, Any]
DIGESTS = {stage: stage * 3 for stage in ("prepare", "train", "export", "evaluate", "publish")}


class Story:
    """A history that is told one change at a time, a second apart."""

    def __init__(self) -> None:
        self.history: list[Record] = []
        self.now = 1000.0

    def tell(self, kind: str, thing: Json, type_: str = "MODIFIED") -> "Story":
        self.now += 1
        self.history.append(Record(self.now, len(self.history) + 1, type_, kind, json.loads(json.dumps(thing))))
        return self

    def wait(self, seconds: float) -> "Story":
        self.now += seconds
        return self


def thing(name: str, owner: tuple[str, str] | None = None, **labels: str) -> Json:
    """`owner`: kind and uid; the uid of a thing is its name."""
    metadata: Json = {"name": name, "namespace": "team", "uid": name, "generation": 1}
    metadata["labels"] = {f"tuneyard.dev/{key}": value for key, value in labels.items()}
    if owner:
        metadata["ownerReferences"] = [{"kind": owner[0], "uid": owner[1], "name": owner[1], "controller": True}]
    return {"metadata": metadata}


REVISION = "0badcafe"


def fine_tune_job(stages: dict[str, str], *conditions: str, percent: int | None = None, **status: Any) -> Json:
    listed = [{"type": each.split(":")[0], "status": "True", "reason": each.split(":")[-1]} for each in conditions]
    told: Json = {
        "observedGeneration": 1,
        "revision": REVISION,
        "stages": [{"name": stage, "state": stages.get(stage, "Pending")} for stage in DIGESTS],
        "conditions": listed,
    }
    progress = {"progress": {"percent": percent}} if percent is not None else {}
    return thing("a") | {"status": told | progress | status}


def stage_job(stage: str, *conditions: str, revision: str = REVISION) -> Json:
    job = thing(f"a-{stage}-{revision}", ("FineTuneJob", "a"), finetunejob="a", stage=stage, revision=revision)
    return job | {"status": {"conditions": [{"type": each, "status": "True"} for each in conditions]}}


def pod(stage: str, state: Json, number: int = 0, revision: str = REVISION) -> Json:
    name = f"a-{stage}-{revision}-{number}"
    made = thing(name, ("Job", f"a-{stage}-{revision}"), finetunejob="a", stage=stage, revision=revision)
    given = [{"name": "TUNEYARD_DIGESTS", "value": json.dumps(DIGESTS)}] if stage != "prepare" else []
    made["spec"] = {"containers": [{"name": "stage", "env": given}]}
    made["status"] = {"containerStatuses": [{"name": "stage", "state": state}]}
    return made


RUNNING: Json = {"running": {}}
COMPLETED: Json = {"terminated": {"exitCode": 0, "message": termination("Completed")}}
ADOPTED: Json = {"terminated": {"exitCode": 0, "message": termination("Adopted")}}
CRASHED: Json = {"terminated": {"exitCode": 1, "message": termination("StageCrashed")}}


def prepared(*done: str) -> Json:
    return {
        "terminated": {
            "exitCode": 0,
            "message": termination("Completed", result={"digests": DIGESTS, "done": done}),
        }
    }


def whole_chain() -> Story:
    """A run as it should be."""
    story = Story()
    states: dict[str, str] = {}
    true: list[str] = []
    names = dict(zip(DIGESTS, ("DatasetReady", "Trained", "Exported", "Evaluated", "Published"), strict=True))
    for stage, condition in names.items():
        story.tell("Job", stage_job(stage)).tell("Pod", pod(stage, RUNNING))
        states[stage] = "Running"
        story.tell("FineTuneJob", fine_tune_job(states, *true, percent=10))
        story.tell("Pod", pod(stage, prepared() if stage == "prepare" else COMPLETED))
        story.tell("Job", stage_job(stage, "Complete"))
        states[stage] = "Succeeded"
        true.append(condition)
        story.tell("FineTuneJob", fine_tune_job(states, *true))
    return story.tell("FineTuneJob", fine_tune_job(states, *true, "Succeeded:Completed"))


def test_good_run_violates_nothing() -> None:
    history = whole_chain().history
    assert violations(history) == []
    assert no_orphans(history) == []
    assert ends_as_expected(history, {("FineTuneJob", "a"): "Succeeded: Completed"}) == []
    assert is_quiet(history, since=history[-1].at) == []


def the(found: list[str], *words: str) -> None:
    """There is exactly one finding, and it names these."""
    assert len(found) == 1, found
    assert all(word in found[0] for word in words), found


def test_unexpected_end_is_found() -> None:
    history = Story().tell("FineTuneJob", fine_tune_job({}, "Failed:InvalidJSON")).history
    the(ends_as_expected(history, {("FineTuneJob", "a"): "Succeeded"}), "a is not Succeeded")
    the(ends_as_expected(history, {("FineTuneJob", "a"): "Failed: DatasetEmpty"}), "InvalidJSON")
    the(ends_as_expected(history, {("FineTuneJob", "b"): "Failed"}), "silent")


def test_repeated_stage_is_found() -> None:
    once = Story().tell("Pod", pod("train", COMPLETED)).tell("Pod", pod("train", COMPLETED))
    assert stages_commit_once(once.history) == []
    assert stages_commit_once(once.tell("Pod", pod("train", ADOPTED, 1)).history) == []
    the(stages_commit_once(once.tell("Pod", pod("train", COMPLETED, 2)).history), "train", "completed more than once")


def test_repeated_stage_of_a_later_run_is_found() -> None:
    story = Story().tell("Pod", pod("prepare", prepared())).tell("Pod", pod("prepare", prepared(), 1, "later"))
    the(stages_commit_once(story.history), "prepare")


def test_concurrent_pods_are_found() -> None:
    one_by_one = Story().tell("Pod", pod("export", RUNNING)).tell("Pod", pod("export", CRASHED))
    assert one_pod_at_a_time(one_by_one.tell("Pod", pod("export", RUNNING, 1)).history) == []
    gone = Story().tell("Pod", pod("train", RUNNING)).tell("Pod", pod("train", RUNNING), "DELETED")
    assert one_pod_at_a_time(gone.tell("Pod", pod("train", RUNNING, 1, "later")).history) == []
    both = Story().tell("Pod", pod("train", RUNNING)).tell("Pod", pod("train", RUNNING, 1, "later"))
    the(one_pod_at_a_time(both.history), "train runs 2 times")


def test_children_that_outlive_their_owners_are_found() -> None:
    story = Story().tell("FineTuneJob", fine_tune_job({})).tell("Job", stage_job("train"))
    assert no_orphans(story.history) == []
    gone = story.tell("FineTuneJob", fine_tune_job({}), "DELETED")
    the(no_orphans(gone.history), "outlives its FineTuneJob")


def test_jobs_of_an_earlier_run_are_found() -> None:
    story = Story().tell("FineTuneJob", fine_tune_job({})).tell("Job", stage_job("train", revision="before"))
    the(no_orphans(story.history), "earlier run")


def test_revisions_that_nobody_needs_are_found() -> None:
    story = Story().tell("ModelServer", server("one")).tell("Deployment", deployment("one"))
    assert no_orphans(story.history) == []
    the(no_orphans(story.tell("Deployment", deployment("two")).history), "m-two is neither served nor coming")
    assert no_orphans(story.tell("ModelServer", server("one", "Progressing")).history) == []


def two_statuses(first: Json, second: Json) -> list[Record]:
    return Story().tell("FineTuneJob", first).tell("FineTuneJob", second).history


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (fine_tune_job({}, observedGeneration=2), fine_tune_job({}), "observedGeneration went from 2 to 1"),
        (fine_tune_job({"train": "Succeeded"}), fine_tune_job({"train": "Running"}), "train was Succeeded"),
        (fine_tune_job({"train": "Adopted"}), fine_tune_job({"train": "Succeeded"}), "train was Adopted"),
        (fine_tune_job({"train": "Running"}), fine_tune_job({}), "the state of train fell"),
        (
            fine_tune_job({"train": "Running"}, percent=50),
            fine_tune_job({"train": "Running"}, percent=40),
            "the percentage of train fell",
        ),
        (fine_tune_job({}, "Trained"), fine_tune_job({}), "Trained was True"),
        (fine_tune_job({}, restarts={"failed": 2}), fine_tune_job({}, restarts={"failed": 1}), "restarts.failed fell"),
    ],
)
def test_status_that_regresses_is_found(first: Json, second: Json, says: str) -> None:
    the(nothing_goes_backwards(two_statuses(first, second)), says)
    assert nothing_goes_backwards(two_statuses(first, first)) == []


def deleted_pod() -> Json:
    made = pod("train", RUNNING)
    made["metadata"]["deletionTimestamp"] = "now"
    return made


def ending_pod() -> Json:
    """Its container has failed; the kubelet has yet to say so of the pod."""
    made = pod("train", CRASHED)
    made["status"]["phase"] = "Running"
    return made


@pytest.mark.parametrize("lost", [deleted_pod(), ending_pod()])
def test_stage_may_restart_once_per_lost_pod(lost: Json) -> None:
    running, pending = fine_tune_job({"train": "Running"}), fine_tune_job({})
    story = Story().tell("FineTuneJob", running).tell("Pod", lost).tell("FineTuneJob", pending)
    assert nothing_goes_backwards(story.history) == []
    again = story.tell("FineTuneJob", running).tell("FineTuneJob", pending)
    the(nothing_goes_backwards(again.history), "no pod of it was lost")


def test_new_generation_may_restart() -> None:
    anew = fine_tune_job({}, observedGeneration=2)
    assert nothing_goes_backwards(two_statuses(fine_tune_job({"train": "Succeeded"}, "Trained"), anew)) == []


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (fine_tune_job({"prepare": "Succeeded"}), "prepare is Succeeded"),
        (fine_tune_job({"train": "Adopted"}), "train is Adopted"),
        (fine_tune_job({"train": "Running"}), "no pod had started"),
        (fine_tune_job({}, "Trained"), "train had not succeeded"),
        (fine_tune_job({}, "Succeeded"), "publish had not succeeded"),
        (fine_tune_job({}, "Failed:InvalidJSON"), "no pod had said that"),
    ],
)
def test_premature_condition_is_found(status: Json, says: str) -> None:
    the(job_conditions_were_true(Story().tell("FineTuneJob", status).history), says)


def test_reused_stages_may_be_done_except_publish() -> None:
    story = Story().tell("Pod", pod("prepare", prepared("train", "publish")))
    assert job_conditions_were_true(story.tell("FineTuneJob", fine_tune_job({"train": "Adopted"})).history) == []
    the(job_conditions_were_true(story.tell("FineTuneJob", fine_tune_job({}, "Succeeded")).history), "publish")


def test_success_with_failure_is_found() -> None:
    story = Story().tell("Pod", pod("publish", COMPLETED)).tell("Pod", pod("export", CRASHED))
    both = fine_tune_job({}, "Succeeded", "Failed:StageCrashed")
    the(job_conditions_were_true(story.tell("FineTuneJob", both).history), "both True")


def server(served: str, *conditions: str) -> Json:
    listed = [{"type": each, "status": "True", "reason": "Why"} for each in conditions]
    return thing("m") | {"status": {"observedGeneration": 1, "served": {"revision": served}, "conditions": listed}}


def deployment(revision: str) -> Json:
    return thing(f"m-{revision}", ("ModelServer", "m"), modelserver="m", revision=revision)


def server_pod(revision: str, *, ready: bool) -> Json:
    made = thing(f"m-{revision}-pod", ("ReplicaSet", "r"), modelserver="m", revision=revision)
    return made | {"status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


def service(revision: str) -> Json:
    selector = {"tuneyard.dev/modelserver": "m", "tuneyard.dev/revision": revision}
    return thing("m-service", ("ModelServer", "m")) | {"spec": {"selector": selector}}


def test_available_without_a_ready_pod_is_found() -> None:
    story = Story().tell("Pod", server_pod("one", ready=True)).tell("ModelServer", server("one", "Available"))
    assert available_means_ready(story.wait(100).tell("Service", service("one")).history) == []
    story.tell("Pod", server_pod("one", ready=False))
    assert available_means_ready(story.wait(30).tell("Service", service("one")).history) == []
    the(available_means_ready(story.wait(20).tell("Service", service("one")).history), "Available 45 s after")


def test_available_by_another_revisions_pod_is_found() -> None:
    story = Story().tell("Pod", server_pod("two", ready=True)).tell("ModelServer", server("one", "Available"))
    the(available_means_ready(story.wait(60).tell("Service", service("one")).history), "Available")


def test_service_of_an_unready_revision_is_found() -> None:
    story = Story().tell("Service", service("one"))
    assert services_point_to_what_was_ready(story.history) == [], "there is nothing else to point to yet"
    story.tell("Pod", server_pod("one", ready=True)).tell("Pod", server_pod("one", ready=False))
    assert services_point_to_what_was_ready(story.tell("Service", service("one")).history) == []
    the(services_point_to_what_was_ready(story.tell("Service", service("two")).history), "points to two")


def test_write_at_rest_is_found() -> None:
    story = whole_chain()
    rest = story.now
    the(is_quiet(story.tell("FineTuneJob", fine_tune_job({})).history, rest), "after all had come to rest")


@pytest.fixture
def stream() -> tuple[Stream, list[Record]]:
    told: list[Record] = []
    return Stream("Pod", told.append), told


def at(version: int, name: str = "p") -> Json:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version), "managedFields": [1]}}


def test_list_after_a_lost_watch_replays_changes(
    stream: tuple[Stream, list[Record]],
) -> None:
    follows, told = stream
    follows.listed({"metadata": {"resourceVersion": "9"}, "items": [at(3), at(4, "q"), at(5, "r")]})
    follows.happened({"type": "MODIFIED", "object": at(10)})
    follows.happened({"type": "BOOKMARK", "object": at(20)})
    with pytest.raises(Expired):
        follows.happened({"type": "ERROR", "object": {"code": 410}})
    follows.listed({"metadata": {"resourceVersion": "30"}, "items": [at(10), at(25, "q"), at(28, "s")]})
    seen = [(each.type, each.object["metadata"]["name"], each.order) for each in told]
    assert seen[:4] == [("ADDED", "p", 3), ("ADDED", "q", 4), ("ADDED", "r", 5), ("MODIFIED", "p", 10)]
    assert seen[4:] == [("DELETED", "r", 10), ("MODIFIED", "q", 10), ("ADDED", "s", 10)]
    assert "managedFields" not in told[0].object["metadata"]
    assert Record.parse(told[0].line()) == told[0]
