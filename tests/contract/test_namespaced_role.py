"""A release that watches one namespace: the chart's Role is all that the operator has, and all that it needs."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from bench import ours
from demo.kubectl import wait_until
from e2e.audit import calls, refused
from support.apiserver import ApiServer, Json, api_server, client_config
from support.chart import rendered
from support.playedpods import begin, end
from support.podstatus import termination
from tuneyard_api.names import EXIT_BAD_INPUT

RELEASE_NAMESPACE: Final = "team-system"
WATCHED: Final = "default"
UNWATCHED: Final = "another-team"
ACCOUNT: Final = "team-tuneyard"
POLICY: Final[Json] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": [f"system:serviceaccounts:{RELEASE_NAMESPACE}"]}, {"level": "None"}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With the release, but for its pods, and a FineTuneJob in a namespace that it does not watch."""
    folder = tmp_path_factory.mktemp("namespaced") / "server"
    with api_server(folder, audit_policy=POLICY, controllers="job-controller,garbage-collector-controller") as running:
        running.install_crds()
        for name in (RELEASE_NAMESPACE, UNWATCHED):
            running.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        rights = [each for each in release() if each["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
        apply(running, *rights)
        apply(running, job("untouched", UNWATCHED))
        yield running


def release() -> list[Json]:
    return rendered("team", RELEASE_NAMESPACE, "--set", f"watchNamespaces={{{WATCHED}}}")


def apply(server: ApiServer, *things: Json) -> None:
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    subprocess.run([*server.kubectl, "apply", "-f", "-"], input=listed, text=True, check=True, timeout=60)


def job(name: str, namespace: str) -> Json:
    made = ours.fine_tune_job(name)
    made["metadata"]["namespace"] = namespace
    return made


def settings() -> dict[str, str]:
    """What the chart tells the operator of where it is and what it watches."""
    (deployment,) = [each for each in release() if each["kind"] == "Deployment"]
    told = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    chosen = {each["name"]: each["value"] for each in told if each["name"] in ("TUNEYARD_NAMESPACES", "TUNEYARD_LEASE")}
    return {**chosen, "TUNEYARD_POD_NAMESPACE": RELEASE_NAMESPACE}


def kubeconfig(server: ApiServer) -> Path:
    """Of the release's service account."""
    account = f"/api/v1/namespaces/{RELEASE_NAMESPACE}/serviceaccounts/{ACCOUNT}/token"
    token = server.request("POST", account, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    path = server.folder / "team.kubeconfig"
    path.write_text(json.dumps(client_config(server.url, token, server.folder / "pki" / "apiserver.crt")))
    return path


def status(server: ApiServer, name: str, namespace: str) -> Json:
    path = f"/apis/tuneyard.dev/v1alpha1/namespaces/{namespace}/finetunejobs/{name}"
    found: Json = server.request("GET", path).get("status", {})
    return found


def test_calls_stay_in_the_watched_namespace(server: ApiServer) -> None:
    since = datetime.now(UTC)
    with ours.operator("team", kubeconfig(server), server.folder, settings=settings()) as operator:
        operator.wait_ready()
        apply(server, job("watched", WATCHED))
        end(
            server,
            begin(server, "watched", "prepare"),
            EXIT_BAD_INPUT,
            termination("DatasetNotFound", "Nothing is there"),
        )
        wait_until(lambda: status(server, "watched", WATCHED).get("phase") == "Failed", "it has failed", 20, every=0.2)

    assert status(server, "untouched", UNWATCHED) == {}
    with server.audit_log.open() as log:
        asked = list(calls(log, since))
    assert {each["objectRef"].get("namespace") for each in asked} == {WATCHED, RELEASE_NAMESPACE}
    assert refused(asked) == set()


def test_other_namespaces_are_forbidden(server: ApiServer) -> None:
    """The test above can fail."""
    token = json.loads(kubeconfig(server).read_text())["users"][0]["user"]["token"]
    command = [*server.kubectl, f"--token={token}", "get", "finetunejobs", "-n"]
    done = [subprocess.run([*command, place], capture_output=True, check=False) for place in (WATCHED, UNWATCHED)]
    assert [each.returncode for each in done] == [0, 1]
