"""Argo CD on an API server: its application controller, its repo-server and a Redis as plain processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import yaml

from argocd import build
from bench.processes import Program, program
from support.apiserver import ApiServer, Json, free_ports
from support.docs import ROOT

NAMESPACE: Final = "argocd"
ARGO: Final = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}"
CRDS: Final = ("application", "appproject")
ANYTHING: Final = {"group": "*", "kind": "*"}
DEFAULT_PROJECT: Final = {
    "sourceRepos": ["*"],
    "destinations": [{"server": "*", "namespace": "*"}],
    "clusterResourceWhitelist": [ANYTHING],
}


@contextmanager
def argo_cd(server: ApiServer, folder: Path) -> Iterator[Program]:
    """Installs Argo CD and runs it until the block ends; yields the application controller."""
    _install(server)
    redis_port, repo_port = free_ports(2)
    redis = f"127.0.0.1:{redis_port}"
    environment = {
        "KUBECONFIG": str(server.kubeconfig),
        "TMPDIR": str(folder),
        "REDIS_SERVER": redis,
        "ARGOCD_FAKE_IN_CLUSTER": "true",  # https://kubernetes.default.svc is the API server of the kubeconfig
        "ARGOCD_GPG_ENABLED": "false",
        "ARGOCD_TLS_DATA_PATH": str(folder),
        "ARGOCD_SSH_DATA_PATH": str(folder),
        "ARGOCD_RECONCILIATION_TIMEOUT": "3s",  # how often it looks into the repository
        "ARGOCD_RECONCILIATION_JITTER": "0",
        "ARGOCD_APPLICATION_CONTROLLER_PERSIST_RESOURCE_HEALTH": "true",  # tests read it
    }
    serve = ("--address=127.0.0.1", f"--port={repo_port}", "--disable-tls", "--metrics-address=127.0.0.1")
    control = (f"--namespace={NAMESPACE}", f"--repo-server=127.0.0.1:{repo_port}", "--repo-server-plaintext")
    with (
        program("argocd-redis", [str(build.program("argocd-redis")), redis], {}, "", folder),
        _argocd("argocd-repo-server", serve, environment, folder) as repo_server,
        _argocd("argocd-application-controller", control, environment, folder) as controller,
    ):
        repo_server.wait_ready()
        controller.wait_ready()
        yield controller


@contextmanager
def _argocd(name: str, flags: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> Iterator[Program]:
    """Runs the program that the binary is by that name."""
    (port,) = free_ports(1)
    command = [str(build.program("argocd")), *flags, f"--metrics-port={port}"]
    named = {**environment, "ARGOCD_BINARY_NAME": name}
    with program(name, command, named, f"http://127.0.0.1:{port}/healthz", folder) as running:
        yield running


def _install(server: ApiServer) -> None:
    crds = build.manifests() / "crds"
    server.install(*(yaml.safe_load((crds / f"{name}-crd.yaml").read_text()) for name in CRDS))
    server.request("POST", "/api/v1/namespaces", _named(NAMESPACE))
    settings = yaml.safe_load((ROOT / "docs" / "argocd" / "argocd-cm.yaml").read_text())
    labels = {"app.kubernetes.io/part-of": "argocd"}
    core = f"/api/v1/namespaces/{NAMESPACE}"
    server.request("POST", f"{core}/configmaps", _named("argocd-cm", labels) | settings)
    server.request(
        "POST", f"{core}/secrets", _named("argocd-secret", labels) | {"stringData": {"server.secretkey": "k"}}
    )
    project = {"apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject", "spec": DEFAULT_PROJECT}
    server.request("POST", f"{ARGO}/appprojects", project | _named("default"))


def _named(name: str, labels: Mapping[str, str] | None = None) -> Json:
    return {"metadata": {"name": name, "labels": dict(labels or {})}}
