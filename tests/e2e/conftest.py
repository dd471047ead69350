"""The end-to-end tests: a real cluster with tuneyard installed (`make install`), real images, real training, real vLLM.

Each test module uses its own namespaces, which enforce Pod Security `restricted`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo import demo, diagnosis, objectstore
from demo.kubectl import Json, apply, kubectl
from demo.objectstore import ObjectStore
from e2e.smallmodel import first_layers
from tuneyard_store.artifact import publish_directory

ROOT = Path(__file__).parents[2]
STORE_NAMESPACE = "e2e-store"
DATA = ROOT / "examples" / "data" / "kubernetes-fields.jsonl"

# The first checks the calls that the operator made during all other modules; the second uninstalls the operator.
LAST = ["test_permissions.py", "test_uninstall.py"]

NamespaceFactory = Callable[[str], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LAST.index(item.path.name) if item.path.name in LAST else -1)


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """The tags of the images that `make images` built from this tree."""
    printed = subprocess.run(
        [sys.executable, ROOT / "images" / "build", "--print-tags"], capture_output=True, text=True, check=True
    )
    tags: dict[str, str] = json.loads(printed.stdout)
    return tags


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The Hugging Face directory of SmolLM2-135M-Instruct; `make images` creates it."""
    return Path(os.environ["TUNEYARD_DEMO_MODEL"])


@pytest.fixture(scope="session")
def room() -> None:
    """Deletes a demo that still runs: two cores are too few for its model server and those of the tests."""
    kubectl("delete", "namespace", demo.NAMESPACE, demo.STORE_NAMESPACE, "--ignore-not-found", timeout=300)


@pytest.fixture(scope="session")
def operator() -> None:
    kubectl("rollout", "status", "deployment/tuneyard", "-n", "tuneyard-system", "--timeout=60s")


@pytest.fixture(scope="session")
def store(
    room: None,
    operator: None,
    images: dict[str, str],
    demo_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> ObjectStore:
    """An S3 server with the models and the data that all tests read."""
    fresh_namespace(STORE_NAMESPACE)
    store = objectstore.install(STORE_NAMESPACE, images["s3"])
    small = first_layers(demo_model, 4, tmp_path_factory.mktemp("model") / "small")
    rows = DATA.read_text().splitlines(keepends=True)
    few = tmp_path_factory.mktemp("data") / "few.jsonl"
    few.write_text("".join(rows[:400]))
    with store.reached_from_here() as s3:
        publish_directory(s3, demo_model, "s3://models/smollm2-135m-instruct", "bf16")
        publish_directory(s3, small, "s3://models/small", "bf16")
        s3.upload(DATA, "s3://data/kubernetes-fields.jsonl")
        s3.upload(few, "s3://data/few.jsonl")
    return store


@pytest.fixture(scope="module")
def new_namespace(store: ObjectStore) -> Iterator[NamespaceFactory]:
    """A function that creates a namespace with the store's Secret; it is deleted after the module's tests."""
    created: list[str] = []

    def make(name: str) -> str:
        fresh_namespace(name)
        apply(store.secret("s3-credentials", name))
        created.append(name)
        return name

    yield make
    for name in created:
        kubectl("delete", "namespace", name, "--wait=false")


def fresh_namespace(name: str) -> None:
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", timeout=300)
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "tuneyard-test": "e2e"}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """After a failure, prints the state of every namespace of the tests."""
    if report.failed:
        listed = kubectl("get", "namespaces", "-l", "tuneyard-test=e2e", "-o", "json")
        namespaces: list[Json] = json.loads(listed)["items"]
        for namespace in namespaces:
            diagnosis.print_namespace(namespace["metadata"]["name"])
