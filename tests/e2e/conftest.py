"""The end-to-end tests: a real cluster with tuneyard installed (`make install`), real images, real training, real vLLM.

Each test module uses its own namespaces, which enforce Pod Security `restricted`. Several modules can run at the same
time: each process of pytest-xdist has an object store of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path

import pytest

from demo import demo, diagnosis, objectstore
from demo.kubectl import Json, KubectlError, apply, kubectl, wait_until
from demo.objectstore import ObjectStore
from e2e.smallmodel import small_model
from tuneyard_store.artifact import publish_directory

ROOT = Path(__file__).parents[2]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
STORE_NAMESPACE = f"e2e-store-{WORKER}" if WORKER else "e2e-store"
DATA = ROOT / "examples" / "data" / "kubernetes-fields.jsonl"

# The longest ones, so that several processes end at about the same time.
FIRST = [
    *("test_chain.py", "test_resilience.py", "test_rollout.py", "test_queue.py"),
    *("test_serving.py", "test_suspend.py", "test_replace.py", "test_readme.py", "test_nodes.py", "test_backends.py"),
]
# Each of these begins when all before it have ended. Two stop the operator for a while, the third checks the calls that
# the operator made during all other modules, the last one uninstalls the operator.
LAST = ["test_admission.py", "test_namespaced.py", "test_permissions.py", "test_uninstall.py"]

# The exceptions whose reports have the state of the namespaces.
REPORTED: list[BaseException] = []

NamespaceFactory = Callable[[str], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(FIRST, -len(FIRST))}
    order |= {name: number for number, name in enumerate(LAST, 1)}
    items.sort(key=lambda item: order.get(item.path.name, 0))


@pytest.fixture(scope="module", autouse=True)
def turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets a module of LAST wait for the modules before it, which other processes may run."""
    name = request.path.name
    ended = tmp_path_factory.getbasetemp().parent / "ended"  # all processes of a run have this parent
    ended.mkdir(exist_ok=True)
    if WORKER and name in LAST:
        modules = list(dict.fromkeys(item.path.name for item in request.session.items))
        before = set(modules[: modules.index(name)])
        wait_until(lambda: before <= {path.name for path in ended.iterdir()}, f"{before} have ended", 3600)
    yield
    (ended / name).touch()


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
def small(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model that trains in seconds; its answers say nothing."""
    return small_model(demo_model, tmp_path_factory.mktemp("model") / "small")


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
    small: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> ObjectStore:
    """An S3 server with the models and the data that all tests read."""
    fresh_namespace(STORE_NAMESPACE)
    store = objectstore.install(STORE_NAMESPACE, images["s3"])
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the state of every namespace of the tests to the report of a failure.

    A fixture that failed fails each test that needs it with the same exception: only the first report has the state.
    """
    report = yield
    if report.failed and call.excinfo and call.excinfo.value not in REPORTED:
        REPORTED.append(call.excinfo.value)
        with redirect_stderr(StringIO()) as printed, suppress(KubectlError):
            print_namespaces()
        report.sections.append(("namespaces of the tests", printed.getvalue()))
    return report


def print_namespaces() -> None:
    listed = kubectl("get", "namespaces", "-l", "tuneyard-test=e2e", "-o", "json")
    namespaces: list[Json] = json.loads(listed)["items"]
    for namespace in namespaces:
        diagnosis.print_namespace(namespace["metadata"]["name"])
