"""Bad input gives a condition with its own reason and a message with a remedy, before any GPU pod exists."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from demo.kubectl import Json, apply, condition, items, kubectl
from demo.objectstore import READ_ONLY_PORT, ObjectStore
from e2e.conftest import STORE_NAMESPACE, NamespaceFactory
from e2e.jobs import fine_tune_job, wait_for_job
from tuneyard_operator.finetunejob.remedies import CHANGE_SPEC
from tuneyard_store.store import Store

NAMESPACE = "e2e-bad-input"
GOOD_ROW = json.dumps({"question": "What is a Pod?", "answer": "A group of containers."}) + "\n"


class Case(NamedTuple):
    name: str
    reason: str
    mentions: list[str]  # the message has these words
    spec: Json = {}
    secret: dict[str, str | None] = {}


def data(file: str) -> Json:
    return {"dataset": {"train": [{"uri": f"s3://data/bad/{file}"}]}}


CASES = [
    Case("bucket-missing", "BucketNotFound", ["nowhere"], {"dataset": {"train": [{"uri": "s3://nowhere/x.jsonl"}]}}),
    Case("wrong-secret-key", "InvalidCredentials", ["AWS_SECRET_ACCESS_KEY"], secret={
        "AWS_SECRET_ACCESS_KEY": "wrong" * 6
    }),
    Case("wrong-access-key", "InvalidCredentials", ["AWS_ACCESS_KEY_ID"], secret={
        "AWS_ACCESS_KEY_ID": "somebody-else"
    }),
    Case("no-secret-key", "CredentialsMissing", ["AWS_SECRET_ACCESS_KEY"], secret={"AWS_SECRET_ACCESS_KEY": None}),
    Case("unknown-ca", "UntrustedCertificate", ["ca.crt"], secret={"ca_crt": None}),
    Case("dataset-missing", "DatasetNotFound", ["s3://data/bad/not-there.jsonl"], data("not-there.jsonl")),
    Case("dataset-empty", "DatasetEmpty", ["s3://data/bad/empty.jsonl"], data("empty.jsonl")),
    Case("json-broken", "InvalidJSON", ["s3://data/bad/broken.jsonl", "line 3"], data("broken.jsonl")),
    Case("no-answer", "MissingAnswer", ["s3://data/bad/no-answer.jsonl", "line 2"], data("no-answer.jsonl")),
    Case("too-few-rows", "TooFewRows", ["minRows", "1000"], {
        "dataset": {"train": [{"uri": "s3://data/few.jsonl"}], "clean": {"minRows": 1000}}
    }),
    Case("no-template", "ChatTemplateMissing", ["chatTemplate"], {"model": {"uri": "s3://models/no-template"}}),
    Case("no-weights", "ModelWeightsMissing", ["s3://models/no-weights", "safetensors"], {"model": {"uri": "s3://models/no-weights"}}),
    Case("model-missing", "ModelNotFound", ["s3://models/not-there"], {"model": {"uri": "s3://models/not-there"}}),
    Case("read-only", "OutputNotWritable", ["s3://artifacts"], secret={
        "AWS_ENDPOINT_URL": f"https://s3.{STORE_NAMESPACE}.svc:{READ_ONLY_PORT}"
    }),
]  # fmt: skip


@pytest.fixture(scope="module")
def applied(store: ObjectStore, new_namespace: NamespaceFactory, small: Path) -> str:
    """The namespace of all cases, which are applied together; each requests a GPU."""
    namespace = new_namespace(NAMESPACE)
    with store.reached_from_here() as s3:
        s3.write("s3://data/bad/empty.jsonl", b"")
        s3.write("s3://data/bad/broken.jsonl", (GOOD_ROW * 2 + '{"question": "What\n').encode())
        s3.write("s3://data/bad/no-answer.jsonl", (GOOD_ROW + '{"question": "Why?", "answer": " "}\n').encode())
        for path in small.glob("*.json"):
            s3.upload(path, f"s3://models/no-weights/{path.name}")
        s3.upload(small / "chat_template.jinja", "s3://models/no-weights/chat_template.jinja")
        without_template(s3, small)
    for case in CASES:
        apply(store.secret(f"s3-{case.name}", namespace, **case.secret))
        output = {"uri": f"s3://artifacts/bad/{case.name}", "secretRef": {"name": f"s3-{case.name}"}}
        apply(fine_tune_job(case.name, namespace, **({"output": output, "resources": {"gpus": 1}} | case.spec)))
    return namespace


def without_template(s3: Store, model: Path) -> None:
    for path in model.iterdir():
        if path.name == "tokenizer_config.json":
            config = json.loads(path.read_text())
            config.pop("chat_template", None)
            s3.write(f"s3://models/no-template/{path.name}", json.dumps(config).encode())
        elif path.suffix in {".json", ".safetensors"}:
            s3.upload(path, f"s3://models/no-template/{path.name}")


def failure(name: str, namespace: str) -> Json:
    return condition(wait_for_job(name, namespace, "Failed", seconds=240), "Failed")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_reason_and_message(applied: str, case: Case) -> None:
    failed = failure(case.name, applied)
    assert failed["reason"] == case.reason, failed
    for words in case.mentions:
        assert words in failed["message"], failed
    retry = f"kubectl tuneyard retry {case.name} -n {applied}"
    assert failed["message"].endswith((CHANGE_SPEC, retry)), "the message ends with what starts the job again"


def test_no_gpu_pod_is_created(applied: str) -> None:
    for case in CASES:
        failure(case.name, applied)
    pods = items("pods", applied)
    assert {pod["metadata"]["labels"]["tuneyard.dev/stage"] for pod in pods} == {"prepare"}
    assert "nvidia.com/gpu" not in json.dumps(pods)


def test_missing_secret(applied: str) -> None:
    output = {"uri": "s3://artifacts/bad/x", "secretRef": {"name": "not-there"}}
    apply(fine_tune_job("secret-missing", applied, output=output))
    failed = failure("secret-missing", applied)
    assert failed["reason"] == "CredentialsMissing", failed
    assert "not-there" in failed["message"], "the message names the Secret"


def test_gpu_not_visible(applied: str) -> None:
    """The cluster's GPUs are only numbers in the node's capacity: the train pod is scheduled, and then finds none."""
    apply(fine_tune_job("gpu", applied, resources={"gpus": 1}))
    failed = failure("gpu", applied)
    assert failed["reason"] == "GPUNotVisible", failed
    (pod,) = items("pods", applied, "tuneyard.dev/finetunejob=gpu,tuneyard.dev/stage=train")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "GPUNotVisible" in kubectl("get", "ftj", "gpu", "-n", applied)
