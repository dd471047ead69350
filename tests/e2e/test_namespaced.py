"""A second release with rights in one namespace only does its work there and touches nothing else."""

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


class Seen(NamedTuple):
    """What there was while only the second release worked."""

    watched: Json  # the FineTuneJobs
    unwatched: Json
    elsewhere: list[Json]  # Jobs in the namespace that is not watched
    cluster_rights: str
    leader: str
    answers: set[str]  # codes that the API server gave the operator
    log: str


@pytest.fixture(scope="module")
def seen(new_namespace: NamespaceFactory, images: dict[str, str]) -> Seen:
    for namespace in (HOME, WATCHED, UNWATCHED):
        new_namespace(namespace)
    with main_release_rests(), release(images):
        apply(fine_tune_job("elsewhere", UNWATCHED, **NOT_THERE))
        apply(fine_tune_job("here", WATCHED, **NOT_THERE))
        watched = wait_for_job("here", WATCHED, "Failed", seconds=60)
        found = Seen(
            watched=watched,
            unwatched=get("finetunejob", "elsewhere", UNWATCHED),
            elsewhere=items("jobs", UNWATCHED),
            cluster_rights=kubectl("get", "clusterroles,clusterrolebindings", "-l", instance(), "-o", "name"),
            leader=get("lease", OPERATOR, HOME)["spec"]["holderIdentity"],
            answers=answers(),
            log=kubectl("logs", "-n", HOME, f"deployment/{OPERATOR}"),
        )
        kubectl("delete", "ftj", "elsewhere", "-n", UNWATCHED)  # the main release would begin with it
    return found


@contextmanager
def main_release_rests() -> Iterator[None]:
    """It watches all namespaces, and no two releases may watch the same one."""
    replicas = get("deployment", "tuneyard", MAIN_HOME)["spec"]["replicas"]
    try:
        kubectl("scale", MAIN, "-n", MAIN_HOME, "--replicas=0")
        wait_until(lambda: not items("pods", MAIN_HOME, "app.kubernetes.io/instance=tuneyard"), "it has ended", 60)
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


def answers() -> set[str]:
    """From the operator's own count of its requests."""
    with (
        port_forward(f"deployment/{OPERATOR}", 8081, HOME) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        return set(re.findall(r'^tuneyard_api_requests_total\{code="(\w+)"', answer.read().decode(), re.MULTILINE))


def test_it_does_its_work_in_its_namespace(seen: Seen) -> None:
    assert condition(seen.watched, "Failed")["reason"] == "DatasetNotFound"
    assert seen.leader.startswith(OPERATOR)


def test_it_leaves_the_others_alone(seen: Seen) -> None:
    assert "status" not in seen.unwatched
    assert seen.elsewhere == []


def test_it_has_no_rights_in_the_cluster_and_asks_for_none(seen: Seen) -> None:
    assert seen.cluster_rights == ""
    assert {"200", "201"} <= seen.answers
    assert not {"401", "403"} & seen.answers, seen.log
    assert "forbidden" not in seen.log.lower()
