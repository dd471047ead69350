"""The operator as a plain process, of this checkout or of another one."""

import argparse
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench.audit import kubeconfig_for
from bench.processes import Program, program
from bench.subject import Subject
from support.apiserver import ApiServer, Json, free_ports
from tuneyard_api.names import API_VERSION

NAME: Final = "tuneyard"
NAMESPACE: Final = "bench-tuneyard"
OURS: Final = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}"


class Checkout(NamedTuple):
    """A checkout of this repository in which `make setup` has run."""

    name: str  # in reports
    path: Path

    @property
    def command(self) -> Path:
        return self.path / ".venv" / "bin" / "tuneyard-operator"

    @property
    def crds(self) -> Path:
        return self.path / "crds"


THIS: Final = Checkout(NAME, Path(__file__).parents[2])


def checkout(path: str) -> Checkout:
    """The checkout at a path, named after its commit.

    Raises ArgumentTypeError where there is no checkout, or where it has no virtual environment.
    """
    root = Path(path).resolve()
    asked = subprocess.run(
        ["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise argparse.ArgumentTypeError(f"{root} is no git checkout: {asked.stderr.strip()}")
    found = Checkout(f"{NAME} {asked.stdout.strip()}", root)
    if not found.command.exists():
        raise argparse.ArgumentTypeError(f"{found.command} does not exist: run `make setup` in {root}")
    return found


def add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        nargs="+",
        type=checkout,
        default=[],
        metavar="DIR",
        help="other checkouts of this repository, after `make setup`: their operators are measured in the same run",
    )


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
    name: str, kubeconfig: Path, folder: Path, command: Path = THIS.command, settings: Mapping[str, str] | None = None
) -> AbstractContextManager[Program]:
    """Runs one operator process until the block ends; processes of several names take part in one leader election.

    `settings`: more environment variables.
    """
    (port,) = free_ports(1)
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "TUNEYARD_TRAINER_IMAGE": "trainer:bench",
        "TUNEYARD_SERVER_IMAGE": "server:bench",
        "TUNEYARD_HEALTH_PORT": str(port),
        "TUNEYARD_POD_NAME": name,
        "PYTHONPATH": "",
        # The image contains the bytecode. Here the first start writes it, and the later starts read it.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        **(settings or {}),
    }
    return program(name, [str(command)], environment, f"http://127.0.0.1:{port}/readyz", folder)


def tuneyard(server: ApiServer, version: Checkout = THIS) -> Subject:
    """Installs the CRDs of that version, and the namespace."""
    server.install_crds(version.crds)
    server.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    kubeconfig = kubeconfig_for(server, NAME)

    @contextmanager
    def run() -> Iterator[list[Program]]:
        with operator(NAME, kubeconfig, server.folder, version.command) as started:
            yield [started]

    return Subject(version.name, NAMESPACE, f"{OURS}/finetunejobs", fine_tune_job, run)
