"""The largest legal FineTuneJob, from apply to Succeeded: all that is written keeps Kubernetes' limits."""

import json
from typing import Final

import pytest

from support.builders import NOW
from support.finetuning import FineTuning
from support.largest import FORMATS, LONG_URI, dataset, evaluation, largest_spec, published
from support.reports import CHAIN, DIGESTS
from tuneyard_api.contracts.termination import (
    TERMINATION_BYTES,
    EvaluateReport,
    PrepareReport,
    PublishReport,
    StageReport,
    termination_message,
)
from tuneyard_api.kinds.finetunejob import FINE_TUNE_JOB
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.kinds.modelserver import ServedModelSource
from tuneyard_api.names import Stage
from tuneyard_api.validation import problems
from tuneyard_operator.machinery.events import event_objects
from tuneyard_operator.machinery.objects import Json, name
from tuneyard_operator.machinery.plan import Plan
from tuneyard_operator.modelserver.artifact import Waiting, annotation, find_release

# Kubernetes' limits of an object, of all its annotations, of an event's message, and of a label's value.
OBJECT_BYTES: Final = 1_000_000
ANNOTATION_BYTES: Final = 256 * 1024
EVENT_MESSAGE_BYTES: Final = 1024
LABEL_CHARACTERS: Final = 63
# Linux allows as much for one variable of the environment.
VARIABLE_BYTES: Final = 128 * 1024
FAILING: Final = FORMATS[-1]
REPORTS: Final[dict[Stage, StageReport]] = {
    "prepare": PrepareReport(digests=dict(zip(CHAIN, DIGESTS.values(), strict=True)), done=[], dataset=dataset()),
    "evaluate": EvaluateReport.of(evaluation(FAILING)),
    "publish": PublishReport.of(published(FAILING)),
}


def fits(plan: Plan, cluster: FineTuning) -> None:
    """Every object that the plan asks for is one that the API server takes."""
    for child in [*plan.apply, *plan.create]:
        metadata = child["metadata"]
        assert len(json.dumps(child)) < OBJECT_BYTES
        assert len(name(child)) <= LABEL_CHARACTERS, "Job names are labels of their pods"
        assert all(len(value) <= LABEL_CHARACTERS for value in metadata["labels"].values())
        assert len(json.dumps(metadata.get("annotations", {}))) < ANNOTATION_BYTES
    for job in plan.create:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert all(len(variable["value"]) < VARIABLE_BYTES for variable in container["env"])
        index = "-63" if job["spec"].get("completionMode") == "Indexed" else ""
        assert len(name(job) + index) <= LABEL_CHARACTERS, "a host name"
    for event in event_objects(plan.events, cluster.job, NOW, "tuneyard"):
        assert len(event["message"].encode()) <= EVENT_MESSAGE_BYTES
        assert len(name(event)) <= 253
    assert len(json.dumps(plan.status)) < OBJECT_BYTES


def step(cluster: FineTuning) -> None:
    fits(cluster.step(), cluster)


@pytest.fixture(scope="module")
def succeeded() -> Json:
    """The largest job at its end."""
    cluster = FineTuning(name="x" * 44, **largest_spec())
    assert problems(FINE_TUNE_JOB, cluster.job) == []
    step(cluster)
    for stage in CHAIN:
        job = cluster.job_of(stage)
        job["spec"]["suspend"] = False  # as Kueue does
        job["spec"]["completions"] = 1  # the first pod is enough
        text = termination_message("Completed", f"Written to {LONG_URI}.", "", REPORTS.get(stage))
        assert len(text) <= TERMINATION_BYTES
        cluster.run(stage).exit(stage, 0, text.decode()).complete_job(stage)
        step(cluster)
    assert cluster.status["phase"] == "Succeeded", cluster.status["conditions"]
    return cluster.job


def test_every_artifact_has_its_uri(succeeded: Json) -> None:
    status = FineTuneJobStatus.model_validate(succeeded["status"])
    export = f"{LONG_URI}/runs/{DIGESTS['export']}/export"
    assert status.artifacts is not None
    assert [artifact.uri for artifact in status.artifacts] == [f"{export}/{name}" for name in FORMATS]
    assert status.recommended is not None
    assert status.recommended.uri == f"{export}/{FORMATS[0]}"


def test_failed_gates_are_counted_and_listed_first(succeeded: Json) -> None:
    found = succeeded["status"]["evaluation"]
    assert (found["gatesFailed"], found["gatesPassed"]) == (16, 240)
    assert found["gates"][0] | {"passed": False, "subject": FAILING} == found["gates"][0]
    assert len(found["gates"]) < 256, "the list is shortened"


def test_release_with_a_failed_gate_is_not_served(succeeded: Json) -> None:
    source = ServedModelSource.model_validate({"fineTuneJobRef": {"name": "x" * 44, "format": FORMATS[0]}})
    found = find_release(source, succeeded)
    assert isinstance(found, Waiting)
    assert found.reason == "GateFailed"
    status = succeeded["status"]
    passed = succeeded | {"status": status | {"evaluation": status["evaluation"] | {"gatesFailed": 0}}}
    release = find_release(source, passed)
    assert not isinstance(release, Waiting)
    assert len(json.dumps(annotation(release))) < ANNOTATION_BYTES
