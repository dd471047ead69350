"""`kubectl apply` reports errors and warnings at once; objects stored while no operator runs get conditions later."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from demo.kubectl import Json, condition, get, items, kubectl, wait_until
from e2e.conftest import fresh_namespace
from support.verdicts import JOB, SERVER
from support.wrongspecs import DOUBTFUL, SCHEMA, WEBHOOK, WRONG_SPECS, Doubtful, WrongSpec
from tuneyard_api.names import API_VERSION

NAMESPACE: Final = "e2e-admission"
OPERATOR, HOME = "deployment/tuneyard", "tuneyard-system"
DRY_RUN: Final = "--dry-run=server"


def apply(kind: str, name: str, spec: object, *options: str) -> tuple[int, str]:
    """Applies an object; returns the exit status of kubectl and everything that it printed."""
    metadata = {"name": name, "namespace": NAMESPACE}
    document = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
    command = ["kubectl", "apply", "-f", "-", *options]
    done = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def is_denied() -> bool:
    return "denied the request" in apply("FineTuneJob", "first", JOB | {"queueName": "GPUs"}, DRY_RUN)[1]


@pytest.fixture(scope="module", autouse=True)
def namespace(operator: None) -> Iterator[None]:
    fresh_namespace(NAMESPACE)
    wait_until(is_denied, "the webhook answers", 60)
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@contextmanager
def no_operator() -> Iterator[None]:
    """Scales the operator to zero for the duration of the block, so that no pod serves the webhook."""
    replicas = get("deployment", "tuneyard", HOME)["spec"]["replicas"]
    try:
        kubectl("scale", OPERATOR, "-n", HOME, "--replicas=0")
        wait_until(lambda: not items("pods", HOME, "app.kubernetes.io/instance=tuneyard"), "no operator runs", 60)
        yield
    finally:
        kubectl("scale", OPERATOR, "-n", HOME, f"--replicas={replicas}")
        kubectl("rollout", "status", OPERATOR, "-n", HOME, "--timeout=60s")


def test_number_of_cases() -> None:
    assert len(WRONG_SPECS) >= 25
    assert len(DOUBTFUL) == 7


@pytest.mark.parametrize("wrong", WRONG_SPECS, ids=lambda wrong: wrong.path)
def test_apply_rejects_a_wrong_spec(wrong: WrongSpec) -> None:
    code, answer = apply(wrong.kind, wrong.name, wrong.spec)
    assert code == 1
    assert wrong.path in answer
    assert (wrong.answer or wrong.remedy) in answer
    assert ("denied the request" in answer) == (wrong not in SCHEMA)


@pytest.mark.parametrize("doubtful", DOUBTFUL, ids=lambda doubtful: doubtful.warning[:40])
def test_apply_warns_of_a_doubtful_spec(doubtful: Doubtful) -> None:
    code, answer = apply(doubtful.kind, "doubtful", doubtful.spec, DRY_RUN)
    assert code == 0, answer
    assert f"Warning: {doubtful.warning}" in answer


def test_condition_for_a_spec_stored_without_operator() -> None:
    queue = next(spec for spec in WEBHOOK if spec.path == "spec.queueName")
    key = next(spec for spec in WEBHOOK if spec.path == "spec.auth.apiKeySecretRef.key")

    def progressing() -> Json:
        return condition(get("ms", "stored", NAMESPACE), "Progressing")

    with no_operator():
        assert apply("FineTuneJob", "stored", queue.spec)[0] == 0
        assert apply("ModelServer", "stored", key.spec)[0] == 0
    wait_until(lambda: condition(get("ftj", "stored", NAMESPACE), "Failed")["status"] == "True", "the job failed", 60)
    failed = condition(get("ftj", "stored", NAMESPACE), "Failed")
    assert failed["reason"] == "InvalidSpec"
    assert queue.path in failed["message"] and queue.remedy in failed["message"]
    wait_until(lambda: progressing()["reason"] == "InvalidSpec", "the ModelServer is invalid", 60)
    assert key.remedy in progressing()["message"]
    wait_until(is_denied, "the webhook answers again", 60)
    code, answer = apply("ModelServer", "stored", SERVER | {"replicas": 0})
    assert code == 0, answer
