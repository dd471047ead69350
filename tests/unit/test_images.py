"""The images' catalog, contexts and tags: pure functions of the tree."""

import io
import json
import os
import re
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tuneyard_api.registry import BACKENDS, ENGINES
from tuneyard_cluster import tools

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "images"))

from tuneyard_images import bake, context, docker, references  # noqa: E402
from tuneyard_images.catalog import IMAGES, ROLES, SHIPPED, Image, with_parents  # noqa: E402

sys.path.remove(str(ROOT / "images"))  # its folder torch is no torch

GPU_ONLY = {"unsloth"}  # built where they are pushed
CHOSEN = {"BASE_IMAGE": "debian:bookworm-slim", "VLLM_BUILD": "cpu", "LLAMACPP_BUILD": "cpu"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a/src").mkdir(parents=True)
    (tmp_path / "a/src/code.py").write_text("x = 1\n")
    (tmp_path / "a/Dockerfile").write_text("FROM scratch\n")
    return tmp_path


IMAGE = Image("a", "a/Dockerfile", files=("a/src",))


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_context_is_reproducible(tree: Path) -> None:
    before = context.pack(context.collect(tree, ["a"]))
    os.utime(tree / "a/src/code.py", (1, 1))
    assert context.pack(context.collect(tree, ["a"])) == before


def test_context_has_no_bytecode(tree: Path) -> None:
    (tree / "a/src/__pycache__").mkdir()
    (tree / "a/src/__pycache__/code.cpython-311.pyc").write_bytes(b"")
    assert names(context.pack(context.collect(tree, ["a"], {"extra": (b"1", 0o755)}))) == [
        "a/Dockerfile",
        "a/src/code.py",
        "extra",
    ]


def test_missing_input_is_named(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a/lock"):
        context.collect(tree, ["a/lock"])


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "a/src/code.py").write_text("x = 2\n"),
        lambda tree: (tree / "a/src/other.py").write_text(""),
        lambda tree: (tree / "a/Dockerfile").write_text("FROM other\n"),
        lambda tree: (tree / "a/src/code.py").chmod(0o755),
    ],
    ids=["text of a file", "a new file", "the Dockerfile", "the executable bit"],
)
def test_tag_depends_on_files(tree: Path, change: Callable[[Path], object]) -> None:
    before = context.tag(tree, IMAGE, {}, {})
    assert re.fullmatch(r"tuneyard/a:[0-9a-f]{12}", before)
    assert context.tag(tree, IMAGE, {}, {}) == before
    change(tree)
    assert context.tag(tree, IMAGE, {}, {}) != before


def test_tag_depends_on_arguments_and_parents(tree: Path) -> None:
    tags = {context.tag(tree, IMAGE, args, parents) for args in ({}, {"A": "1"}) for parents in ({}, {"P": "x:1"})}
    assert len(tags) == 4


def test_base_image_changes_every_tag() -> None:
    one, other = context.tags(ROOT, CHOSEN), context.tags(ROOT, CHOSEN | {"BASE_IMAGE": "registry.example/debian:12"})
    assert not {name for name in one if one[name] == other[name]}


def test_vllm_build_changes_only_the_server() -> None:
    cpu, cuda = context.tags(ROOT, CHOSEN), context.tags(ROOT, CHOSEN | {"VLLM_BUILD": "cuda"})
    assert {name for name in cpu if cpu[name] != cuda[name]} == {"server-deps", "server"}


def test_llamacpp_build_changes_the_images_that_have_parts_of_it() -> None:
    cpu, cuda = context.tags(ROOT, CHOSEN), context.tags(ROOT, CHOSEN | {"LLAMACPP_BUILD": "cuda"})
    parts = {"llamacpp-build", "llamacpp-deps", "llamacpp", "trainer-deps", "trainer"}
    assert {name for name in cpu if cpu[name] != cuda[name]} == parts


def test_catalog_is_in_build_order() -> None:
    seen: set[str] = set()
    for image in IMAGES:
        assert set(image.parents.values()) <= seen
        seen.add(image.name)
        for file in (image.dockerfile, *image.files):
            assert (ROOT / file).exists(), file


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("tuneyard/trainer:0123456789ab", True),
        ("tuneyard/torch:0123456789ab", True),
        ("tuneyard/node:0123456789ab", False),
        ("tuneyard/trainer:mine", False),
        ("trainer:0123456789ab", False),
    ],
)
def test_only_catalog_images_are_removed(reference: str, expected: bool) -> None:
    assert context.is_from_catalog(reference) is expected


def test_shipped_images() -> None:
    assert set(SHIPPED) == {"operator", "trainer", "axolotl", "server", "llamacpp", "s3", "kueue"}


def test_roles_are_those_of_the_registry_and_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "charts/tuneyard/values.yaml").read_text())
    assert set(ROLES) == set(values["images"]) - {"registry"} <= {*SHIPPED, *GPU_ONLY}
    assert not any(values["images"].values()), "no registry that may be anybody's"
    assert {backend.image for backend in BACKENDS.values()} | {engine.image for engine in ENGINES.values()} <= set(
        ROLES
    )


@pytest.mark.parametrize("registry", ["registry.example.com/tuneyard", "registry.example.com:5000/tuneyard/"])
def test_pushed_images_are_named_in_the_values_of_the_chart(registry: str) -> None:
    tags = context.tags(ROOT, CHOSEN)
    assert re.fullmatch(
        r"registry\.example\.com(:5000)?/tuneyard/server:[0-9a-f]{12}", references.remote(tags["server"], registry)
    )
    pushed = {role: references.pushed(tags[role], f"sha256:{'0' * 64}") for role in ROLES}
    assert pushed["server"]["repository"] == "server"
    assert references.remote(tags["server"], "x") == f"x/server:{pushed['server']['tag']}"
    written = yaml.safe_load(references.helm_values(pushed, registry))
    assert written == {"images": {"registry": registry.rstrip("/"), **pushed}}
    assert yaml.safe_load(references.helm_values(tags)) == {"images": tags}


def test_digest_is_the_one_in_the_registry_that_was_pushed_to() -> None:
    digests = ["other.example.com/server@sha256:1", "registry.example.com:5000/tuneyard/server@sha256:2"]
    assert docker.digest_in(digests, "registry.example.com:5000/tuneyard/server:0123456789ab") == "sha256:2"
    with pytest.raises(docker.DockerError, match=r"third\.example\.com/server:1"):
        docker.digest_in(digests, "third.example.com/server:1")


def test_parents_come_along_in_build_order() -> None:
    names = [image.name for image in with_parents(["server"])]
    assert names == ["base", "builder", "torch", "server-deps", "server"]
    assert with_parents([*SHIPPED, *GPU_ONLY]) == IMAGES


def test_bake_builds_the_same_tags_from_the_same_contexts(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    child = Image("b", "a/Dockerfile", files=("a/src",), parents={"BASE_IMAGE": "a"})
    tags = {"a": "tuneyard/a:0123456789ab", "b": "tuneyard/b:ba9876543210"}
    arguments = {"a": {"DEBIAN": "debian:12"}, "b": {"BASE_IMAGE": tags["a"]}}
    folder = tmp_path_factory.mktemp("bake")
    files = context.collect(tree, ["a"], {"extra": (b"1", 0o755)})
    bake.write_bake(folder, bake.bake_file([IMAGE, child], tags, arguments), {"a": files, "b": files})

    written = json.loads((folder / "docker-bake.json").read_text())
    assert written["group"]["default"]["targets"] == ["a", "b"]
    assert written["target"]["b"] == {
        "context": "b",
        "dockerfile": "a/Dockerfile",
        "contexts": {"tuneyard/a:0123456789ab": "target:a"},
        "args": {"BASE_IMAGE": "tuneyard/a:0123456789ab"},
        "tags": ["tuneyard/b:ba9876543210"],
        "output": ["type=docker"],
    }
    for name in ("a", "b"):
        assert context.collect(folder / name, ["."]) == files


def test_cluster_tools_pin_the_same_versions() -> None:
    """The images and the test cluster share the binaries in the cache."""
    pinned = {image.args["GO_PACKAGE"] for image in IMAGES if "GO_PACKAGE" in image.args}
    assert pinned == {tools.PACKAGES[name] for name in tools.PINNED}


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "images" / name).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ \\]+)", text, re.MULTILINE))


LOCKS = sorted(str(path.relative_to(ROOT / "images")) for path in (ROOT / "images").glob("*/*.lock"))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes(lock: str) -> None:
    requirements = re.split(r"\n(?=[a-z0-9])", (ROOT / "images" / lock).read_text().strip())
    assert [requirement for requirement in requirements if "--hash=sha256:" not in requirement] == []


@pytest.mark.parametrize(
    "lock", [lock for lock in LOCKS if lock.startswith(("trainer/", "axolotl/axolotl", "unsloth/", "server/"))]
)
def test_torch_layer_is_in_no_other_lock(lock: str) -> None:
    assert not set(pins("torch/requirements.lock")) & set(pins(lock))


def test_torch_is_pinned_and_cpu_server_has_no_triton() -> None:
    assert pins("torch/requirements.lock")["torch"] == "2.13.0"
    assert "triton" not in pins("torch/requirements.lock") | pins("server/cpu.lock")


@pytest.mark.parametrize(
    ("name", "locks"),
    [
        ("operator", ["operator/requirements.lock"]),
        ("trainer", ["torch/requirements.lock", "trainer/trainer.lock"]),
        ("axolotl", ["torch/requirements.lock", "axolotl/axolotl.lock"]),
        ("unsloth", ["torch/requirements.lock", "unsloth/unsloth.lock"]),
        ("server", ["torch/requirements.lock", "server/cpu.lock"]),
        ("server", ["torch/requirements.lock", "server/cuda.lock"]),
        ("llamacpp", ["llamacpp/requirements.lock"]),
    ],
    ids=["operator", "trainer", "axolotl", "unsloth", "server on CPU", "server on CUDA", "llama.cpp"],
)
def test_locks_have_the_dependencies_of_the_code(name: str, locks: list[str]) -> None:
    """The code is installed without its dependencies, which must be in the image already."""
    args = {image.name: image.args for image in IMAGES}[name]
    projects = [
        tomllib.loads((ROOT / package / "pyproject.toml").read_text()) for package in str(args["PACKAGES"]).split()
    ]
    needed = {Requirement(line).name for project in projects for line in project["project"]["dependencies"]}
    # The image of a backend runs the train stage, which draws nothing.
    needed -= {"matplotlib"} if name in BACKENDS else set()
    missing = needed - {name for lock in locks for name in pins(lock)}
    assert {name for name in missing if not name.startswith("tuneyard-")} == set()
