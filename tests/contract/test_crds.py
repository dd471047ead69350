"""The CRDs against a real API server: what it refuses when a file is applied, and what it leaves alone.

The same schemas under another group and other plurals, so that no operator acts on what the tests apply, and
`kubectl get finetunejob` means ours even while kubectl remembers the copies.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from demo.kubectl import Json, KubectlError, apply, get, kubectl
from support.verdicts import JOB, SERVER, VERDICTS, Verdict
from tuneyard_api.crd import build_crd
from tuneyard_api.kinds import KINDS
from tuneyard_api.kinds.finetunejob import CHANGEABLE, FineTuneJobSpec

GROUP = "contract.tuneyard.dev"
NAMESPACE = "contract-crds"


@pytest.fixture(scope="module", autouse=True)
def crds() -> Iterator[None]:
    copies = [copied(build_crd(kind)) for kind in KINDS]
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": copies})
    )
    names = [f"crd/{copy['metadata']['name']}" for copy in copies]
    kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
    yield
    kubectl("delete", *names)
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def copied(crd: Json) -> Json:
    spec = json.loads(json.dumps(crd["spec"])) | {"group": GROUP}
    kind = spec["names"]["kind"]
    spec["names"] = {"kind": kind, "plural": plural(kind), "singular": f"copied{kind.lower()}"}
    return crd | {"metadata": {"name": resource(kind)}, "spec": spec}


def plural(kind: str) -> str:
    return f"copied{kind.lower()}s"


def thing(kind: str, name: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": f"{GROUP}/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def resource(kind: str) -> str:
    return f"{plural(kind)}.{GROUP}"


def set_status(kind: str, name: str, status: Json, manager: str = "tuneyard-operator") -> None:
    document = thing(kind, name, {})
    document.pop("spec")
    flags = ["--server-side", "--force-conflicts", "--subresource=status", f"--field-manager={manager}"]
    kubectl("apply", *flags, "-f", "-", stdin=json.dumps(document | {"status": status}))


def rejection(*documents: Json) -> str:
    with pytest.raises(KubectlError) as refused:
        apply(*documents)
    return str(refused.value)


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.message[:30] or "accepted")
def test_every_rule(verdict: Verdict) -> None:
    """tests/unit/test_validation.py asks pydantic the same."""
    document = thing(verdict.kind, verdict.name, verdict.document()["spec"])
    if not verdict.message:
        apply(document)
        kubectl("delete", resource(verdict.kind), verdict.name, "-n", NAMESPACE)
        return
    assert verdict.message in rejection(document)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"training": {"lora": {"rank": 0}}}, "spec.training.lora.rank"),
        ({"training": {"backend": "magic"}}, 'supported values: "peft"'),
        ({"training": {"learningRte": 1}}, "learningRte"),
        ({"dataset": {"train": []}}, "spec.dataset.train"),
        ({"export": {"formats": ["bf16", "bf16"]}}, "Duplicate value"),
        ({"export": {"formats": ["zip"]}}, "supported values"),
        ({"output": {}}, "spec.output.uri: Required value"),
        ({"ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished"),
        ({"queueName": ""}, "spec.queueName"),
        ({"resources": {"nodes": 0}}, "spec.resources.nodes"),
    ],
)
def test_invalid_job_is_rejected(part: Json, says: str) -> None:
    document = thing("FineTuneJob", "refused", JOB | part)
    with pytest.raises(KubectlError) as refused:
        kubectl("apply", "--validate=strict", "-f", "-", stdin=json.dumps(document))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (SERVER | {"replicas": -1}, "spec.replicas"),
        (SERVER | {"engine": "magic"}, 'supported values: "auto", "vllm", "llamacpp"'),
    ],
)
def test_invalid_server_is_rejected(spec: Json, says: str) -> None:
    assert says in rejection(thing("ModelServer", "refused", spec))


@pytest.mark.parametrize(
    ("kind", "spec", "stored"), [("FineTuneJob", JOB, {}), ("ModelServer", SERVER, {"replicas": 1})]
)
def test_defaults_are_not_stored(kind: str, spec: Json, stored: Json) -> None:
    """But the one that an autoscaler has to read."""
    apply(thing(kind, "minimal", spec))
    assert get(resource(kind), "minimal", NAMESPACE)["spec"] == spec | stored


def test_autoscaler_finds_a_number_of_replicas() -> None:
    """On a ModelServer that does not say it, such as the README's."""
    apply(thing("ModelServer", "autoscaled", SERVER))
    path = f"/apis/{GROUP}/v1alpha1/namespaces/{NAMESPACE}/{plural('ModelServer')}/autoscaled/scale"
    assert json.loads(kubectl("get", "--raw", path))["spec"]["replicas"] == 1


ONLY = "while the job runs only suspend, ttlSecondsAfterFinished and onSpecChange can change"

# Another value of every field of the spec, required or not, that says what a run does.
OTHERS: Json = {
    "model": {"uri": "s3://models/other"},
    "dataset": {"train": [{"uri": "s3://data/other.jsonl"}]},
    "training": {"maxSteps": 7},
    "fit": {"policy": "Enforce"},
    "export": {"formats": ["int8"]},
    "evaluation": {"maxRows": 7},
    "output": {"uri": "s3://artifacts/other"},
    "resources": {"gpus": 2},
    "queueName": "gpus",
    "priorityClassName": "high",
    "retryPolicy": {"backoffLimit": 7},
    "rerun": "2026-11-01",
    "pod": {"labels": {"team": "ml"}},
}


def running(name: str, phase: str = "Training", **spec: Any) -> None:
    """A job that a stage works for."""
    apply(thing("FineTuneJob", name, JOB | spec))
    set_status("FineTuneJob", name, {"phase": phase})


@pytest.mark.parametrize("phase", ["Preparing", "Training", "Exporting", "Evaluating", "Publishing"])
def test_spec_is_immutable_while_running(phase: str) -> None:
    name = f"running-{phase.lower()}"
    running(name, phase)
    assert ONLY in rejection(thing("FineTuneJob", name, JOB | {"training": {"maxSteps": 7}}))
    apply(thing("FineTuneJob", name, JOB))


def test_every_field_is_checked() -> None:
    fields = {info.alias or name for name, info in FineTuneJobSpec.model_fields.items()}
    assert set(OTHERS) == fields - set(CHANGEABLE)


@pytest.mark.parametrize("field", OTHERS)
@pytest.mark.lifecycle("changed-while-running")
def test_every_field_is_immutable_while_running(field: str) -> None:
    name = f"fixed-{field.lower()}"
    running(name)
    assert ONLY in rejection(thing("FineTuneJob", name, JOB | {field: OTHERS[field]}))
    if field not in JOB:
        running(f"{name}-set", **{field: OTHERS[field]})
        assert ONLY in rejection(thing("FineTuneJob", f"{name}-set", JOB))


@pytest.mark.parametrize("phase", ["Pending", "Training", "Suspended", "Succeeded"])
def test_suspend_and_lifetime_can_change_at_any_time(phase: str) -> None:
    name = f"changeable-{phase.lower()}"
    running(name, phase)
    apply(thing("FineTuneJob", name, JOB | {"suspend": True}))
    apply(thing("FineTuneJob", name, JOB | {"suspend": False, "ttlSecondsAfterFinished": 0}))
    apply(thing("FineTuneJob", name, JOB))


def test_suspend_unlocks_no_other_field() -> None:
    running("smuggled")
    assert ONLY in rejection(thing("FineTuneJob", "smuggled", JOB | {"suspend": True, "resources": {"gpus": 2}}))


@pytest.mark.parametrize("field", OTHERS)
@pytest.mark.lifecycle("replaced-while-running")
def test_every_field_can_change_with_replace(field: str) -> None:
    name = f"replaced-{field.lower()}"
    running(name)
    apply(thing("FineTuneJob", name, JOB | {field: OTHERS[field], "onSpecChange": "Replace", "suspend": True}))
    assert ONLY in rejection(thing("FineTuneJob", name, JOB | {"onSpecChange": "Refuse"})), "what is asked for counts"


@pytest.mark.parametrize("phase", ["Pending", "Suspended", "Succeeded", "Failed"])
def test_spec_is_mutable_at_rest(phase: str) -> None:
    name = f"changes-{phase.lower()}"
    apply(thing("FineTuneJob", name, JOB))
    set_status("FineTuneJob", name, {"phase": phase})
    apply(thing("FineTuneJob", name, JOB | {"training": {"maxSteps": 7}}))
    assert get(resource("FineTuneJob"), name, NAMESPACE)["metadata"]["generation"] == 2


def said(kind: str, **more: Any) -> Json:
    return {"type": kind, "status": "True", "reason": "Why", "lastTransitionTime": "2026-01-01T00:00:00Z"} | more


def test_status_is_applied_as_a_whole() -> None:
    apply(thing("FineTuneJob", "status", JOB))
    first = {"phase": "Training", "progress": {"percent": 5}, "conditions": [said("Trained"), said("DatasetReady")]}
    set_status("FineTuneJob", "status", first)
    set_status("FineTuneJob", "status", {"conditions": [said("Theirs")]}, manager="somebody-else")
    set_status("FineTuneJob", "status", {"phase": "Exporting", "conditions": [said("Trained")]})
    status = get(resource("FineTuneJob"), "status", NAMESPACE)["status"]
    assert status["phase"] == "Exporting"
    assert "progress" not in status, "what is no longer said goes"
    assert {each["type"] for each in status["conditions"]} == {"Trained", "Theirs"}


def test_kubectl_get_answers_where_it_is_and_how_far() -> None:
    apply(thing("FineTuneJob", "shown", JOB))
    progress = {"percent": 42, "loss": 1.25, "eta": "4m10s"}
    failed = [said("Failed", reason="DatasetEmpty")]
    shown = {"phase": "Training", "reason": "DatasetEmpty", "progress": progress, "conditions": failed}
    set_status("FineTuneJob", "shown", shown)
    header, row = kubectl("get", resource("FineTuneJob"), "shown", "-n", NAMESPACE).splitlines()
    assert header.split() == ["NAME", "PHASE", "PERCENT", "LOSS", "ETA", "RECOMMENDED", "REASON", "AGE"]
    assert row.split()[:5] == ["shown", "Training", "42", "1.25", "4m10s"]
    assert "DatasetEmpty" in row


def test_server_can_be_scaled() -> None:
    apply(thing("ModelServer", "scaled", SERVER))
    kubectl("scale", resource("ModelServer"), "scaled", "-n", NAMESPACE, "--replicas=3")
    assert get(resource("ModelServer"), "scaled", NAMESPACE)["spec"]["replicas"] == 3


def test_kubectl_explain_names_the_defaults() -> None:
    told = kubectl("explain", f"{resource('FineTuneJob')}.spec.training.lora.rank")
    assert "Default: 16" in told
