"""Argo CD applies commits while FineTuneJobs run, on an API server with the operator; the tests play the pods."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from argocd.application import Application, create
from argocd.controller import ARGO, argo_cd
from bench import ours
from demo.kubectl import wait_until
from support.apiserver import ApiServer, Json, api_server
from support.docs import ROOT, blocks
from support.playedpods import (
    MERGE,
    NAMESPACE,
    PODS,
    begin,
    end,
    is_deleting,
    prepare,
    run,
    select,
    status,
    succeed,
    training_job,
)
from support.podstatus import PREEMPTED, termination
from support.reports import CHAIN, PREPARED, PUBLISHED
from tuneyard_api.kinds.finetunejob import unchanged_while_running
from tuneyard_api.names import EXIT_BAD_INPUT, LABEL_MODELSERVER

CONTROLLERS: Final = "job-controller,deployment-controller,replicaset-controller,garbage-collector-controller"
JOB_FILE: Final = "finetune.yaml"
CHANGE: Final = "  resources: {gpus: 2}\n"
REPLACE: Final = "  onSpecChange: Replace\n"  # without it a change is refused during a run
ACCOUNT: Final = """\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: trainer
  annotations: {{argocd.argoproj.io/sync-wave: "{wave}"}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("argocd")
    with api_server(folder / "server", controllers=CONTROLLERS) as running:
        running.install_crds()
        with ours.operator("operator", running.kubeconfig, folder) as operator:
            operator.wait_ready()
            with argo_cd(running, folder):
                yield running


@pytest.fixture(autouse=True)
def no_applications(server: ApiServer) -> Iterator[None]:
    """After a test Argo CD has nothing to look at."""
    yield
    server.request("DELETE", f"{ARGO}/applications")


def trains(application: Application) -> Json:
    """The pod of its training, which runs."""
    application.wait_synced(application.head)
    prepare(application.server, application.name)
    return begin(application.server, application.name, "train")


def wait_stopped(server: ApiServer, pod: Json) -> None:
    """Waits until the pod was told to end, and ends it as training does."""
    wait_until(lambda: is_deleting(server, pod), "the pod gets SIGTERM", 30, every=0.2)
    end(server, pod, *PREEMPTED)


def test_commit_replaces_the_running_stage(server: ApiServer, tmp_path: Path) -> None:
    bot = create(server, tmp_path, "replaced")
    pod, job, before = trains(bot), training_job(server, bot.name), status(server, bot.name)
    bot.wait_health(FineTuneJob="Progressing", ModelServer="Progressing")

    bot.wait_synced(bot.commit(JOB_FILE, CHANGE))
    wait_stopped(server, pod)
    prepare(server, bot.name)
    (container,) = begin(server, bot.name, "train")["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert training_job(server, bot.name)["metadata"]["uid"] != job["metadata"]["uid"]
    assert status(server, bot.name)["revision"] != before["revision"]
    assert reasons(server, bot.name).count("Replaced") == 1
    assert status(server, bot.name)["restarts"]["failed"] == 0


def reasons(server: ApiServer, name: str) -> list[str]:
    """Of the events about the FineTuneJob."""
    events = server.request("GET", f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
    return [each["reason"] for each in events if each["involvedObject"]["name"] == name]


def test_rerun_trains_nothing_again(server: ApiServer, tmp_path: Path) -> None:
    """With the commands of docs/gitops.md."""
    bot = create(server, tmp_path, "support-bot")
    succeed(server, trains(bot))
    for stage in CHAIN[2:]:
        succeed(server, begin(server, bot.name, stage), PUBLISHED if stage == "publish" else None)
    bot.wait_health(FineTuneJob="Healthy", ModelServer="Progressing")
    serve(server, bot.name)
    bot.wait_health(FineTuneJob="Healthy", ModelServer="Healthy")
    published = status(server, bot.name)

    (commands,) = [block for block in blocks(ROOT / "docs" / "gitops.md") if "git commit" in block.text]
    subprocess.run(["bash", "-ec", commands.text], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    bot.wait_synced(bot.head)
    bot.wait_health(FineTuneJob="Progressing", ModelServer="Healthy")
    succeed(server, begin(server, bot.name, "prepare"), PREPARED | {"done": list(CHAIN[1:-1])})
    succeed(server, begin(server, bot.name, "publish"), PUBLISHED)
    bot.wait_health(FineTuneJob="Healthy", ModelServer="Healthy")
    assert status(server, bot.name)["artifacts"] == published["artifacts"]
    assert status(server, bot.name)["revision"] != published["revision"]
    assert not select(server, PODS, bot.name, "train")


def serve(server: ApiServer, name: str) -> None:
    """Waits for the pod of the ModelServer and runs it."""
    path = f"{PODS}?labelSelector={LABEL_MODELSERVER}%3D{name}".replace("dev/", "dev%2F")
    wait_until(lambda: len(server.request("GET", path)["items"]) == 1, "there is a pod", 30, every=0.2)
    (pod,) = server.request("GET", path)["items"]
    run(server, pod)


def commit_refused(bot: Application) -> None:
    """Commits a change, and waits until the API server has refused it and Argo CD says why."""
    revision, message = bot.commit(JOB_FILE, CHANGE), unchanged_while_running()["message"]
    wait_until(lambda: message in bot.sync[1], "the commit is refused", 60, every=0.3)
    assert bot.compared == ("OutOfSync", revision)
    assert "resources" not in bot.fine_tune_job["spec"]


@pytest.mark.parametrize("correction", ["revert", "replace"])
def test_refused_commit_does_not_block_its_correction(server: ApiServer, tmp_path: Path, correction: str) -> None:
    bot = create(server, tmp_path, f"refused-{correction}", without=REPLACE)
    pod = trains(bot)
    commit_refused(bot)
    assert not is_deleting(server, pod)
    if correction == "revert":
        bot.git("revert", "--no-edit", "HEAD")
        bot.wait_synced(bot.head)
        assert not is_deleting(server, pod)
    else:
        bot.wait_synced(bot.commit(JOB_FILE, REPLACE))
        wait_stopped(server, pod)


def test_refused_commit_is_applied_after_the_run(server: ApiServer, tmp_path: Path) -> None:
    bot = create(server, tmp_path, "refused-waits", without=REPLACE)
    pod = trains(bot)
    commit_refused(bot)
    end(server, pod, EXIT_BAD_INPUT, termination("TrainingDiverged", "The loss is nan"))
    bot.wait_synced(bot.head)
    prepare(server, bot.name)


def test_commit_that_was_given_up_is_never_tried_again(server: ApiServer, tmp_path: Path) -> None:
    """What the example's `retry` prevents."""
    once: Json = {"limit": 1, "backoff": {"duration": "1s"}}
    bot = create(server, tmp_path, "given-up", without=REPLACE, retry=once)
    pod = trains(bot)
    commit_refused(bot)
    wait_until(lambda: bot.sync[0] == "Failed", "it is given up", 30, every=0.3)
    assert bot.sync[1].endswith("(retried 1 times).")
    end(server, pod, EXIT_BAD_INPUT, termination("TrainingDiverged", "The loss is nan"))
    bot.wait_health(FineTuneJob="Degraded", ModelServer="Progressing")
    with pytest.raises(TimeoutError):
        wait_until(lambda: bot.compared != ("OutOfSync", bot.head), "it is tried again", 15, every=0.3)


@pytest.mark.parametrize(("wave", "applies"), [(-1, True), (1, False)])
def test_sync_waves(server: ApiServer, tmp_path: Path, wave: int, applies: bool) -> None:
    """A commit is applied during a run unless something is in a wave after the FineTuneJob."""
    bot = create(server, tmp_path, f"waves-{applies}".lower(), account=ACCOUNT.format(wave=wave))
    pod = begin(server, bot.name, "prepare")
    revision = bot.commit(JOB_FILE, CHANGE)
    if applies:
        bot.wait_synced(revision)
        wait_stopped(server, pod)
    else:
        wait_until(lambda: bot.compared == ("OutOfSync", revision), "the commit is known", 60, every=0.3)
        waits = f"waiting for healthy state of tuneyard.dev/FineTuneJob/{bot.name} and 1 more resources"
        assert bot.sync == ("Running", waits)
        assert "resources" not in bot.fine_tune_job["spec"]


def test_git_takes_nothing_but_the_replicas_back(server: ApiServer, tmp_path: Path) -> None:
    """Neither self-heal nor a commit undoes what an autoscaler has set, although git has that field too."""
    bot = create(server, tmp_path, "scaled")
    bot.wait_synced(bot.commit("modelserver.yaml", "  replicas: 1\n"))
    server.request("PATCH", bot.server_path, {"spec": {"replicas": 3}}, MERGE)
    server.request("PATCH", bot.job_path, {"spec": {"rerun": "by hand"}}, MERGE)
    wait_until(lambda: bot.fine_tune_job["spec"]["rerun"] == "2026-11-01", "rerun is as in git", 60, every=0.3)
    bot.wait_synced(bot.commit("modelserver.yaml", "  resources: {gpus: 2}\n"))
    assert server.request("GET", bot.server_path)["spec"].items() >= {"replicas": 3, "resources": {"gpus": 2}}.items()
