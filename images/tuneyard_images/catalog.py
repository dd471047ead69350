"""The images, one entry each, in build order.

A shipped image has the name of its role: registry.BACKENDS and registry.ENGINES of tuneyard_api refer to it, and so do
the chart's values `images.<role>`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        name: the repository is `tuneyard/<name>`.
        files: files and directories that the build copies; the tag is a hash of them and of the Dockerfile.
        parents: build argument -> image that the build starts from or copies from; the hash includes their tags.
        args: build arguments, which the hash includes; `None` stands for a value from the command line.
        shipped: whether it runs in a cluster; the others are needed for the build only.
        role: whether the Helm chart installs it; the demo and the tests use the other shipped images.
        tool: whether it only installs what locks pin: the hashes of other images then leave out its tag.
    """

    name: str
    dockerfile: str
    files: tuple[str, ...] = ()
    parents: dict[str, str] = field(default_factory=dict)
    args: dict[str, str | None] = field(default_factory=dict)
    shipped: bool = False
    role: bool = False
    tool: bool = False


def _code(name: str, deps: str, *packages: str) -> Image:
    """A thin image with tuneyard's own packages, on an image whose dependencies are in /opt/<name>."""
    return Image(
        name,
        "images/code/Dockerfile",
        files=tuple(f"{package}/{part}" for package in packages for part in ("pyproject.toml", "src")),
        parents={"DEPS_IMAGE": deps, "BUILDER_IMAGE": "builder"},
        args={"PACKAGES": " ".join(packages), "ENVIRONMENT": f"/opt/{name}"},
        shipped=True,
        role=True,
    )


def _go(name: str, package: str) -> Image:
    """An image with one binary, which is built on the host from a Go module."""
    dockerfile = f"images/{name}/Dockerfile"
    return Image(name, dockerfile, parents={"BASE_IMAGE": "base"}, args={"GO_PACKAGE": package}, shipped=True)


_ON_BASE = {"BASE_IMAGE": "base", "BUILDER_IMAGE": "builder"}
_WITH_LLAMACPP = {"BUILDER_IMAGE": "builder", "LLAMACPP_IMAGE": "llamacpp-build"}
_ON_TORCH = {"TORCH_IMAGE": "torch", "BUILDER_IMAGE": "builder"}

IMAGES = (
    Image("base", "images/base/Dockerfile", args={"BASE_IMAGE": None}),
    Image(
        "builder",
        "images/builder/Dockerfile",
        files=("images/builder/requirements.lock", "images/builder/environment", "images/builder/wheels"),
        parents={"BASE_IMAGE": "base"},
        tool=True,
    ),
    Image("operator-deps", "images/operator/Dockerfile", ("images/operator/requirements.lock",), _ON_BASE),
    _code("operator", "operator-deps", "crds", "operator"),
    _go("s3", "github.com/versity/versitygw/cmd/versitygw@v1.8.0"),
    _go("kueue", "sigs.k8s.io/kueue/cmd/kueue@v0.15.0"),
    Image(
        "llamacpp-build",
        "images/llamacpp/build.Dockerfile",
        tuple(f"images/llamacpp/{name}" for name in ("source.lock", "backend.lock", "cuda.lock", "compile", "pack")),
        _ON_BASE,
        args={"LLAMACPP_BUILD": None},
    ),
    Image(
        "llamacpp-deps",
        "images/llamacpp/Dockerfile",
        ("images/llamacpp/requirements.lock",),
        {"BASE_IMAGE": "base", **_WITH_LLAMACPP},
    ),
    _code("llamacpp", "llamacpp-deps", "crds", "store", "server"),
    Image("torch", "images/torch/Dockerfile", ("images/torch/requirements.lock",), _ON_BASE),
    Image(
        "trainer-deps",
        "images/trainer/Dockerfile",
        ("images/trainer/trainer.lock", "images/trainer/quantizer.lock", "images/trainer/triton.lock"),
        {"TORCH_IMAGE": "torch", **_WITH_LLAMACPP},
    ),
    _code("trainer", "trainer-deps", "crds", "store", "trainer"),
    Image(
        "axolotl-deps",
        "images/axolotl/Dockerfile",
        (
            "images/trainer/triton.lock",
            *(f"images/axolotl/{name}" for name in ("axolotl.lock", "backend.lock", "contribs.lock", "contribs")),
        ),
        _ON_TORCH,
    ),
    _code("axolotl", "axolotl-deps", "crds", "store", "trainer"),
    Image(
        "unsloth-deps",
        "images/unsloth/Dockerfile",
        ("images/trainer/triton.lock", "images/unsloth/unsloth.lock"),
        _ON_TORCH,
    ),
    # For GPUs alone, so that nothing runs it here: it is built where it is pushed.
    replace(_code("unsloth", "unsloth-deps", "crds", "store", "trainer"), shipped=False),
    Image(
        "server-deps",
        "images/server/Dockerfile",
        tuple(f"images/server/{name}" for name in ("cpu.lock", "cuda.lock", "vllm.metadata", "model_infos")),
        _ON_TORCH,
        args={"VLLM_BUILD": None},
    ),
    _code("server", "server-deps", "crds", "store", "server"),
)

BY_NAME = {image.name: image for image in IMAGES}
SHIPPED = tuple(image.name for image in IMAGES if image.shipped)
ROLES = tuple(image.name for image in IMAGES if image.role)


def with_parents(names: Collection[str]) -> tuple[Image, ...]:
    """The images of these names and all that they are built from, in build order."""
    needed: set[str] = set()
    for image in reversed(IMAGES):
        if image.name in names or image.name in needed:
            needed |= {image.name, *image.parents.values()}
    return tuple(image for image in IMAGES if image.name in needed)
