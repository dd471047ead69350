"""A second release, with rights in one namespace only, works there and changes nothing in other namespaces."""

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import pytest

from demo.kubectl import Json, apply, condition, get, items, kubectl, port_forward, wait_until
from e2e.conftest import ROOT, NamespaceFactory
from e2e.jobs import fine_tune_job, wait_for_job

RELEASE, OPERATOR, HOME = "team", "team-tuneyard", "e2e-namespaced-system"
WATCHED, UNWATCHED = "e2e-namespaced", "e2e-unwatched"
MAIN, MAIN_HOME = "deployment/tuneyard", "tuneyard-system"
NOT_THERE: Final[Json] = {"dataset": {"train": [{"uri": "s3://data/bad/not-there.jsonl"}]}}
HELM_SECONDS: Final = 60


class Observed(NamedTuple):
    """The state of the cluster while only the second release was running."""

    watched: Json  # the FineTuneJobs
    unwatched: Json
    unwatched_jobs: list[Json]
    cluster_rights: str
    leader: str
    codes: set[str]  # status codes of the API server's responses to the operator
    log: str


@pytest.fixture(scope="module")
def observed(new_namespace: NamespaceFactory, images: dict[str, str]) -> Observed:
    for namespace in (HOME, WATCHED, UNWATCHED):
        new_namespace(namespace)
    with main_release_scaled_down(), release(images):
        apply(fine_tune_job("elsewhere", UNWATCHED, **NOT_THERE))
        apply(fine_tune_job("here", WATCHED, **NOT_THERE))
        watched = wait_for_job("here", WATCHED, "Failed", seconds=60)
        found = Observed(
            watched=watched,
            unwatched=get("finetunejob", "elsewhere", UNWATCHED),
            unwatched_jobs=items("jobs", UNWATCHED),
            cluster_rights=kubectl("get", "clusterroles,clusterrolebindings", "-l", instance(), "-o", "name"),
            leader=get("lease", OPERATOR, HOME)["spec"]["holderIdentity"],
            codes=response_codes(),
            log=kubectl("logs", "-n", HOME, f"deployment/{OPERATOR}"),
        )
        kubectl("delete", "ftj", "elsewhere", "-n", UNWATCHED)  # otherwise the main release would run it
    return found


@contextmanager
def main_release_scaled_down() -> Iterator[None]:
    """Scales down the main release, which watches all namespaces: two releases must not watch the same one."""
    replicas = get("deployment", "tuneyard", MAIN_HOME)["spec"]["replicas"]
    try:
        kubectl("scale", MAIN, "-n", MAIN_HOME, "--replicas=0")
        wait_until(lambda: not items("pods", MAIN_HOME, "app.kubernetes.io/instance=tuneyard"), "it is stopped", 60)
        yield
    finally:
        kubectl("scale", MAIN, "-n", MAIN_HOME, f"--replicas={replicas}")
        kubectl("rollout", "status", MAIN, "-n", MAIN_HOME, "--timeout=60s")


@contextmanager
def release(images: dict[str, str]) -> Iterator[None]:
    chosen = [f"images.{name}={images[name]}" for name in ("operator", "trainer", "server")]
    values = [*chosen, f"watchNamespaces={{{WATCHED}}}", "replicas=1", "logFormat=text"]
    options = [option for value in values for option in ("--set", value)]
    try:
        helm("install", RELEASE, str(ROOT / "charts" / "tuneyard"), "--skip-crds", "--wait", *options)
        yield
    finally:
        helm("uninstall", RELEASE)


def helm(*args: str) -> None:
    subprocess.run(["helm", *args, "-n", HOME], check=True, timeout=HELM_SECONDS)


def instance() -> str:
    return f"app.kubernetes.io/instance={RELEASE}"


def response_codes() -> set[str]:
    """The status codes in the operator's metric of its requests."""
    with (
        port_forward(f"deployment/{OPERATOR}", 8081, HOME) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response,
    ):
        return set(re.findall(r'^tuneyard_api_requests_total\{code="(\w+)"', response.read().decode(), re.MULTILINE))


def test_job_in_the_watched_namespace(observed: Observed) -> None:
    assert condition(observed.watched, "Failed")["reason"] == "DatasetNotFound"
    assert observed.leader.startswith(OPERATOR)


def test_job_in_another_namespace(observed: Observed) -> None:
    assert "status" not in observed.unwatched
    assert observed.unwatched_jobs == []


def test_no_cluster_wide_rights(observed: Observed) -> None:
    assert observed.cluster_rights == ""
    assert {"200", "201"} <= observed.codes
    assert not {"401", "403"} & observed.codes, observed.log
    assert "forbidden" not in observed.log.lower()
