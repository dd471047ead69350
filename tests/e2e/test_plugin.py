"""`kubectl tuneyard` as a person uses it: a job that waits, one that fails, is mended, and is followed to its end."""

import json
import subprocess

import pytest

from demo.kubectl import apply, items, wait_until
from e2e.conftest import NamespaceFactory
from e2e.jobs import fine_tune_job, model_server
from tuneyard_api.names import LABEL_REVISION
from tuneyard_api.stages import STAGES

NAMESPACE = "e2e-plugin"
FULL_NAMESPACE = "e2e-plugin-full"


def plugin(*arguments: str, code: int = 0) -> str:
    """What the command printed; fails when it exits with another code."""
    command = ["kubectl", "tuneyard", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def namespace(new_namespace: NamespaceFactory) -> str:
    return new_namespace(NAMESPACE)


@pytest.fixture(scope="module")
def failed(namespace: str) -> str:
    """What `wait` printed about a job whose data is not there."""
    apply(fine_tune_job("tuned", namespace, dataset={"train": [{"uri": "s3://data/not-there.jsonl"}]}))
    return plugin("wait", "tuned", "-n", namespace, "--timeout", "4m", code=1)


@pytest.fixture(scope="module")
def followed(failed: str, namespace: str) -> str:
    """What `logs -f` printed from the moment when the same job was mended to its end."""
    apply(fine_tune_job("tuned", namespace))
    command = ["kubectl", "tuneyard", "logs", "tuned", "-n", namespace, "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as following:
        try:
            plugin("wait", "tuned", "-n", namespace, "--timeout", "9m")
            return following.communicate(timeout=60)[0]
        finally:
            following.kill()


def test_wait_says_why_it_failed(failed: str) -> None:
    assert "Failed: DatasetNotFound: " in failed
    assert "kubectl tuneyard logs tuned -n e2e-plugin --stage prepare" in failed


def test_a_mended_job_runs_anew_and_its_old_jobs_go(followed: str, namespace: str) -> None:
    jobs = items("jobs", namespace, "tuneyard.dev/finetunejob=tuned")
    assert len({job["metadata"]["labels"][LABEL_REVISION] for job in jobs}) == 1
    assert "Succeeded" in plugin("status", "tuned", "-n", namespace)


def test_logs_are_followed_from_stage_to_stage(followed: str) -> None:
    titles = [line.removeprefix("==> ").split(",")[0] for line in followed.splitlines() if line.startswith("==> ")]
    assert list(dict.fromkeys(titles)) == list(STAGES), followed


def test_one_stages_log(followed: str, namespace: str) -> None:
    printed = plugin("logs", "tuned", "-n", namespace, "--stage", "train")
    assert printed.startswith("==> train, pod tuned-train-")
    assert "==> evaluate" not in printed
    assert "step " in printed


def test_the_report_has_what_was_measured(followed: str, namespace: str) -> None:
    report = json.loads(plugin("report", "tuned", "-n", namespace, "-o", "json"))
    assert {measured["subject"] for measured in report["evaluation"]["measurements"]} >= {"base", "tuned"}
    text = plugin("report", "tuned", "-n", namespace)
    assert text.startswith("### e2e-plugin/tuned: Succeeded")
    assert report["artifacts"][0]["digest"] in text


def test_status_says_why_a_job_waits(new_namespace: NamespaceFactory) -> None:
    """The namespace's quota allows no pod."""
    full = new_namespace(FULL_NAMESPACE)
    quota = {"name": "none", "namespace": full}
    apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": quota, "spec": {"hard": {"pods": "0"}}})
    apply(fine_tune_job("waits", full))
    wait_until(lambda: "exceeded quota" in plugin("status", "waits", "-n", full), "status says why it waits", 120)
    told = plugin("status", "waits", "-n", full)
    assert "prepare waits: FailedCreate: " in told
    assert "ResourceQuota is used up" in told, "and what to do"


def test_the_table_has_both_kinds(followed: str, namespace: str) -> None:
    apply(model_server("follower", namespace, {"fineTuneJobRef": {"name": "not-there"}}))
    wait_until(lambda: "does not exist" in plugin("status", "-n", namespace), "the table says what it waits for", 60)
    assert "tuned" in plugin("status", "-A")


def test_errors_are_one_line(namespace: str) -> None:
    assert plugin("status", "nothing", "-n", namespace, code=1).count("\n") == 1
    assert "nowhere" in plugin("status", "--context", "nowhere", code=1)
