"""The peer: Kubeflow Trainer with the JobSet that it requires, with the settings and webhooks of their own manifests.

Different from the manifests: no leader election (each has one replica), no metrics port, certificates created here.
"""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from bench.audit import kubeconfig_for
from bench.processes import Program, program
from bench.subject import Subject
from demo.certificates import Identity, make_authority, make_server_identity
from support.apiserver import ApiServer, Json, free_ports

HERE: Final = Path(__file__).parent / "peer"
TRAINER: Final = "github.com/kubeflow/trainer/v2"
JOBSET: Final = "sigs.k8s.io/jobset"
PACKAGES: Final = {"trainer": f"{TRAINER}/cmd/trainer-controller-manager", "jobset": JOBSET}
NAMESPACE: Final = "bench-trainer"
RUNTIME: Final = "torch-distributed"
IMAGE: Final = "trainer:bench"


class Ports(NamedTuple):
    health: int
    webhook: int


@cache
def build() -> dict[str, Path]:
    """The binaries by their names. The first build takes minutes."""
    for name, package in PACKAGES.items():
        target = HERE / "bin" / name
        command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", str(target), package]
        subprocess.run(["nice", "-n", "15", "env", "CGO_ENABLED=0", *command], cwd=HERE, check=True)
    return {name: HERE / "bin" / name for name in PACKAGES}


def train_job(name: str) -> Json:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": {"image": IMAGE, "command": ["tuneyard", "stage", "train"], "numNodes": 1},
        },
    }


def trainer(server: ApiServer) -> Subject:
    """Installs the CRDs, the webhooks and the namespace; `run` installs the runtime, which a webhook validates."""
    binaries = build()
    authority = make_authority("bench")
    identity = make_server_identity(authority, ["127.0.0.1"])
    ports = {name: Ports(*free_ports(2)) for name in PACKAGES}
    configs = {name: kubeconfig_for(server, name) for name in PACKAGES}
    for name in PACKAGES:
        _write_configuration(server.folder / name, name, identity, ports[name])
    for crd in _crds():
        _apply(server, crd)
        server.wait_established(crd["metadata"]["name"])
    for module, name in ((TRAINER, "trainer"), (JOBSET, "jobset")):
        for document in _webhooks(module):
            _apply(server, _local(document, name, ports[name], authority))
    server.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})

    @contextmanager
    def run() -> Iterator[list[Program]]:
        with ExitStack() as stack:
            started = []
            for name in PACKAGES:
                folder = server.folder / name
                command = [str(binaries[name]), f"--kubeconfig={configs[name]}", f"--config={folder / 'config.json'}"]
                command += ["--zap-log-level=2"] if name == "trainer" else []
                url = f"http://127.0.0.1:{ports[name].health}/readyz"
                environment = {"TMPDIR": str(folder)}
                started.append(stack.enter_context(program(name, command, environment, url, server.folder)))
            for one in started:
                one.wait_ready()
            _apply(server, _runtime())
            yield started

    parents = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
    return Subject("trainer", NAMESPACE, parents, train_job, run)


def _folder(module: str) -> Path:
    listed = ["go", "list", "-m", "-f", "{{.Dir}}", module]
    return Path(subprocess.run(listed, cwd=HERE, check=True, capture_output=True, text=True).stdout.strip())


def _documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _crds() -> list[Json]:
    files = sorted((_folder(TRAINER) / "manifests/base/crds").glob("trainer.*.yaml"))
    files += sorted((_folder(JOBSET) / "config/components/crd/bases").glob("*.yaml"))
    return [document for file in files for document in _documents(file)]


def _webhooks(module: str) -> list[Json]:
    place = "manifests/base/webhook" if module == TRAINER else "config/components/webhook"
    return _documents(_folder(module) / place / "manifests.yaml")


def _runtime() -> Json:
    (found,) = _documents(_folder(TRAINER) / "manifests/base/runtimes/torch_distributed.yaml")
    return dict(found)


def _local(document: Json, name: str, ports: Ports, authority: Identity) -> Json:
    """A webhook configuration whose URLs name the process on this machine instead of a Service."""
    bundle = base64.b64encode(authority.certificate_pem.encode()).decode()
    for webhook in document["webhooks"]:
        path = webhook["clientConfig"]["service"]["path"]
        webhook["clientConfig"] = {"url": f"https://127.0.0.1:{ports.webhook}{path}", "caBundle": bundle}
    document["metadata"]["name"] = f"{name}-{document['metadata']['name']}"
    return document


def _write_configuration(folder: Path, name: str, identity: Identity, ports: Ports) -> None:
    certificates = folder / "k8s-webhook-server" / "serving-certs"
    certificates.mkdir(parents=True)
    (certificates / "tls.crt").write_text(identity.certificate_pem)
    (certificates / "tls.key").write_text(identity.key_pem)
    shared = {
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{ports.health}"},
        "webhook": {"port": ports.webhook, "host": "127.0.0.1"},
        "metrics": {"bindAddress": "0"},
        "leaderElection": {"leaderElect": False},
    }
    own = {"trainer": _trainer_configuration(), "jobset": _jobset_configuration()}[name]
    (folder / "config.json").write_text(json.dumps(shared | own))


def _trainer_configuration() -> Json:
    shipped = _documents(_folder(TRAINER) / "manifests/base/manager/controller_manager_config.yaml")[0]
    kept = {key: shipped[key] for key in ("apiVersion", "controller", "clientConnection")}
    return kept | {"certManagement": {"enable": False}}


def _jobset_configuration() -> Json:
    return {"apiVersion": "config.jobset.x-k8s.io/v1alpha1", "internalCertManagement": {"enable": False}}


def _apply(server: ApiServer, document: Json) -> None:
    command = [*server.kubectl, "apply", "--server-side", "--force-conflicts", "-f", "-"]
    subprocess.run(command, input=json.dumps(document, default=str), text=True, check=True, capture_output=True)
