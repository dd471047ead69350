"""The operator as a plain process."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from bench.audit import kubeconfig_for
from bench.processes import Program, program
from bench.subject import Subject
from support.apiserver import ApiServer, Json, free_ports
from tuneyard_api.names import API_VERSION

NAME: Final = "tuneyard"
NAMESPACE: Final = "bench-tuneyard"
OURS: Final = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}"
COMMAND: Final = Path(sys.executable).parent / "tuneyard-operator"


def fine_tune_job(name: str) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "s3://models/qwen3-8b"},
            "dataset": {"train": [{"uri": "s3://data/support.jsonl"}]},
            "output": {"uri": "s3://artifacts/support-bot", "secretRef": {"name": "s3-credentials"}},
        },
    }


def model_server(name: str) -> Json:
    model = {"uri": "s3://artifacts/support-bot/bf16", "digest": f"sha256:{'0' * 64}"}
    return {"apiVersion": API_VERSION, "kind": "ModelServer", "metadata": {"name": name}, "spec": {"model": model}}


def operator(
    name: str, kubeconfig: Path, folder: Path, command: Path = COMMAND, settings: Mapping[str, str] | None = None
) -> AbstractContextManager[Program]:
    """One process of it; several of different names stand for election. `settings`: more environment."""
    (port,) = free_ports(1)
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "TUNEYARD_TRAINER_IMAGE": "trainer:bench",
        "TUNEYARD_SERVER_IMAGE": "server:bench",
        "TUNEYARD_HEALTH_PORT": str(port),
        "TUNEYARD_POD_NAME": name,
        # Its bytecode is there, as it is in the image: not in the first start, but in those after it.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        **(settings or {}),
    }
    return program(name, [str(command)], environment, f"http://127.0.0.1:{port}/readyz", folder)


def tuneyard(server: ApiServer) -> Subject:
    """Installs the CRDs and the namespace."""
    server.install_crds()
    server.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    kubeconfig = kubeconfig_for(server, NAME)

    @contextmanager
    def run() -> Iterator[list[Program]]:
        with operator(NAME, kubeconfig, server.folder) as started:
            yield [started]

    parents = f"{OURS}/finetunejobs"
    core = f"/api/v1/namespaces/{NAMESPACE}"
    jobs = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    collections = (parents, jobs, f"{core}/configmaps", f"{core}/events")
    return Subject(NAME, NAMESPACE, parents, collections, fine_tune_job, run)
