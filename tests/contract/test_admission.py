"""The admission webhook: a real API server asks the operator's process about what is applied.

The webhook's configuration is the chart's, with the operator's address in place of the Service.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.certificates import make_authority, make_server_identity
from support.apiserver import ApiServer, api_server, free_ports
from support.chart import CHART, IMAGES
from support.verdicts import JOB, SPECS
from support.wrongspecs import DOUBTFUL, SCHEMA, WEBHOOK, Doubtful, WrongSpec
from tuneyard_api.names import API_VERSION

Json = dict[str, Any]

JOBS = f"/apis/{API_VERSION}/namespaces/default/finetunejobs"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
SECONDS = 1.0  # for an answer


class Operator:
    """The operator's process, which begins without a certificate."""

    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.port, self.health_port = free_ports(2)
        self.folder, self.log = folder, folder / "operator.log"
        settings = {
            "TRAINER_IMAGE": "t",
            "SERVER_IMAGE": "s",
            "HEALTH_PORT": str(self.health_port),
            "LOG_FORMAT": "json",
            "WEBHOOK_PORT": str(self.port),
            "WEBHOOK_CERTIFICATES": str(folder / "certificates"),
            "WEBHOOK_LOOKUPS": "LocalQueue PriorityClass Secret",
        }
        environment = {key: value for key, value in os.environ.items() if key != "KUBERNETES_SERVICE_HOST"}
        self.environment = environment | {f"TUNEYARD_{key}": value for key, value in settings.items()}
        self.environment["KUBECONFIG"] = str(server.kubeconfig)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "tuneyard_operator"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        wait_until(self.is_ready)

    def is_ready(self) -> bool:
        assert self.process and self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> int:
        """Seconds that it may take are few: nothing that the API server keeps open is waited for."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


def wait_until(check: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("api") / "server") as running:
        running.install_crds()
        yield running


@pytest.fixture(scope="module")
def operator(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Serves the webhook; its certificate came when it was ready already."""
    folder = tmp_path_factory.mktemp("operator")
    authority = make_authority("webhook")
    identity = make_server_identity(authority, ["127.0.0.1"])
    found = Operator(server, folder)
    found.start()
    (folder / "certificates").mkdir()
    (folder / "certificates" / "tls.key").write_text(identity.key_pem)
    (folder / "certificates" / "tls.crt").write_text(identity.certificate_pem)
    server.request("POST", WEBHOOKS, configuration(found.port, authority.certificate_pem))
    wait_until(lambda: is_denied(server))
    yield found
    if found.process and found.process.poll() is None:
        found.stop()


def configuration(port: int, ca: str) -> Json:
    command = ["helm", "template", "tuneyard", str(CHART), *IMAGES, "--show-only", "templates/webhook.yaml"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    (found,) = [
        document
        for document in yaml.safe_load_all(rendered)
        if document and document["kind"] == "ValidatingWebhookConfiguration"
    ]
    for webhook in found["webhooks"]:
        path = webhook["clientConfig"]["service"]["path"]
        bundle = base64.b64encode(ca.encode()).decode()
        webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
    configured: Json = found
    return configured


def apply(server: ApiServer, kind: str, name: str, spec: Json, *options: str, **metadata: Any) -> tuple[int, str]:
    """kubectl's exit status and everything that it printed."""
    metadata = {"name": name, "namespace": "default"} | metadata
    document = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
    command = [*server.kubectl, "apply", "-f", "-", *options]
    done = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def is_denied(server: ApiServer) -> bool:
    return "denied the request" in apply(server, "FineTuneJob", "first", JOB | {"queueName": "GPUs"}, DRY_RUN)[1]


DRY_RUN = "--dry-run=server"


@pytest.mark.parametrize("wrong", WEBHOOK, ids=lambda wrong: wrong.path)
def test_invalid_spec_is_rejected_at_apply(server: ApiServer, operator: Operator, wrong: WrongSpec) -> None:
    code, answer = apply(server, wrong.kind, wrong.name, wrong.spec)
    assert code == 1
    plural = "finetunejobs" if wrong.kind == "FineTuneJob" else "modelservers"
    assert f'admission webhook "{plural}.tuneyard.dev" denied the request: {wrong.path}' in answer
    assert wrong.remedy in answer


@pytest.mark.parametrize("wrong", SCHEMA, ids=lambda wrong: wrong.path)
def test_schema_answers_first(server: ApiServer, operator: Operator, wrong: WrongSpec) -> None:
    code, answer = apply(server, wrong.kind, wrong.name, wrong.spec)
    assert code == 1
    assert wrong.path in answer
    assert (wrong.answer or wrong.remedy) in answer
    assert "denied the request" not in answer, "a validating webhook is asked about what the schema accepts"


def test_all_problems_are_reported(server: ApiServer, operator: Operator) -> None:
    part = {"queueName": "GPUs", "resources": {"limits": {"cpu": "x"}}, "priorityClassName": "HIGH"}
    _, answer = apply(server, "FineTuneJob", "several", JOB | part)
    assert "denied the request: 3 problems:" in answer
    assert all(f"\n  spec.{path}: " in answer for path in ("resources.limits.cpu", "queueName", "priorityClassName"))


@pytest.mark.parametrize("doubtful", DOUBTFUL, ids=lambda doubtful: doubtful.warning[:40])
def test_missing_reference_is_a_warning(server: ApiServer, operator: Operator, doubtful: Doubtful) -> None:
    code, answer = apply(server, doubtful.kind, "doubtful", doubtful.spec, DRY_RUN)
    assert code == 0, answer
    assert f"Warning: {doubtful.warning}" in answer


def test_existing_reference_is_no_warning(server: ApiServer, operator: Operator) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"a": "b"}}
    server.request("POST", "/api/v1/namespaces/default/secrets", secret)
    urgent = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 9}
    server.request("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", urgent)
    part = {"output": JOB["output"] | {"secretRef": {"name": "keys"}}, "priorityClassName": "urgent"}
    code, answer = apply(server, "FineTuneJob", "complete", JOB | part | {"resources": {"gpus": 1}}, DRY_RUN)
    assert (code, "Warning" in answer) == (0, False), answer


@pytest.mark.parametrize("kind", SPECS)
def test_answers_within_a_second(server: ApiServer, operator: Operator, kind: str) -> None:
    metadata = {"name": "timed", "namespace": "default"}
    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": SPECS[kind]}
    began = time.monotonic()
    server.request("POST", f"/apis/{API_VERSION}/namespaces/default/{kind.lower()}s?dryRun=All", body)
    assert time.monotonic() - began < SECONDS


def test_condition_without_the_webhook(server: ApiServer, operator: Operator) -> None:
    """Last: the operator ends, what is wrong is stored, and the operator comes back."""
    wrong = next(each for each in WEBHOOK if each.path == "spec.queueName")
    assert operator.stop() == 0
    code, answer = apply(server, "FineTuneJob", "stored", wrong.spec)
    assert code == 0, answer
    operator.start()
    wait_until(lambda: condition(server, "stored", "Failed"))
    failed = condition(server, "stored", "Failed")
    assert failed["reason"] == "InvalidSpec"
    assert failed["message"].startswith(f"{wrong.path}: ") and wrong.remedy in failed["message"]
    wait_until(lambda: is_denied(server))
    code, answer = apply(server, "FineTuneJob", "stored", wrong.spec, labels={"team": "ml"})
    assert code == 0, "what is stored can still be labelled"
    code, answer = apply(server, "FineTuneJob", "stored", wrong.spec | {"suspend": True})
    assert code == 1 and wrong.remedy in answer, "but not changed into another wrong spec"
    code, answer = apply(server, "FineTuneJob", "stored", JOB)
    assert code == 0, answer


def test_refusals_are_no_errors_of_the_operator(operator: Operator) -> None:
    """An API server that has just started may be waited for, which is a warning."""
    lines = [json.loads(line) for line in operator.log.read_text().splitlines()]
    assert not [line for line in lines if line["level"] in ("ERROR", "CRITICAL")]
    assert not [line for line in lines if line["logger"].startswith("kopf") and line["level"] != "INFO"]


def condition(server: ApiServer, name: str, kind: str) -> Json:
    status = server.request("GET", f"{JOBS}/{name}").get("status", {})
    return next((each for each in status.get("conditions", []) if each["type"] == kind), {})
