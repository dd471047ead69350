"""The commands of `kubectl tuneyard` for a job that waits, and for one that fails, is corrected and succeeds."""

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
    """Runs the plugin, asserts its exit code, and returns everything that it printed."""
    command = ["kubectl", "tuneyard", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def namespace(new_namespace: NamespaceFactory) -> str:
    return new_namespace(NAMESPACE)


@pytest.fixture(scope="module")
def failed(namespace: str) -> str:
    """The output of `wait` for a job whose dataset does not exist."""
    apply(fine_tune_job("tuned", namespace, dataset={"train": [{"uri": "s3://data/not-there.jsonl"}]}))
    return plugin("wait", "tuned", "-n", namespace, "--timeout", "4m", code=1)


@pytest.fixture(scope="module")
def followed(failed: str, namespace: str) -> str:
    """The output of `logs -f` from the correction of the same job until it succeeded."""
    apply(fine_tune_job("tuned", namespace))
    command = ["kubectl", "tuneyard", "logs", "tuned", "-n", namespace, "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as following:
        try:
            plugin("wait", "tuned", "-n", namespace, "--timeout", "9m")
            return following.communicate(timeout=60)[0]
        finally:
            following.kill()


def test_wait_prints_the_failure(failed: str) -> None:
    assert "Failed: DatasetNotFound: " in failed
    assert "kubectl tuneyard logs tuned -n e2e-plugin --stage prepare" in failed


def test_corrected_job_runs_again(followed: str, namespace: str) -> None:
    jobs = items("jobs", namespace, "tuneyard.dev/finetunejob=tuned")
    assert len({job["metadata"]["labels"][LABEL_REVISION] for job in jobs}) == 1
    assert "Succeeded" in plugin("status", "tuned", "-n", namespace)


def test_logs_follow_all_stages(followed: str) -> None:
    titles = [line.removeprefix("==> ").split(",")[0] for line in followed.splitlines() if line.startswith("==> ")]
    assert list(dict.fromkeys(titles)) == list(STAGES), followed


def test_logs_of_one_stage(followed: str, namespace: str) -> None:
    printed = plugin("logs", "tuned", "-n", namespace, "--stage", "train")
    assert printed.startswith("==> train, pod tuned-train-")
    assert "==> evaluate" not in printed
    assert "step " in printed


def test_report_has_measurements(followed: str, namespace: str) -> None:
    report = json.loads(plugin("report", "tuned", "-n", namespace, "-o", "json"))
    assert {item["subject"] for item in report["evaluation"]["measurements"]} >= {"base", "tuned"}
    text = plugin("report", "tuned", "-n", namespace)
    assert text.startswith("### e2e-plugin/tuned: Succeeded")
    assert report["artifacts"][0]["digest"] in text


def test_status_of_a_waiting_job(new_namespace: NamespaceFactory) -> None:
    """The quota of the namespace allows no pods."""
    full = new_namespace(FULL_NAMESPACE)
    quota = {"name": "none", "namespace": full}
    apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": quota, "spec": {"hard": {"pods": "0"}}})
    apply(fine_tune_job("waits", full))
    wait_until(lambda: "exceeded quota" in plugin("status", "waits", "-n", full), "status shows why the job waits", 120)
    printed = plugin("status", "waits", "-n", full)
    assert "prepare waits: QuotaExceeded: " in printed
    assert "Raise ResourceQuota none, or free what others in this namespace use" in printed, "the remedy"


def test_status_lists_both_kinds(followed: str, namespace: str) -> None:
    apply(model_server("follower", namespace, {"fineTuneJobRef": {"name": "not-there"}}))
    wait_until(lambda: "does not exist" in plugin("status", "-n", namespace), "status shows the missing job", 60)
    assert "tuned" in plugin("status", "-A")


def test_error_is_one_line(namespace: str) -> None:
    assert plugin("status", "nothing", "-n", namespace, code=1).count("\n") == 1
    assert "nowhere" in plugin("status", "--context", "nowhere", code=1)
