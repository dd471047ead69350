"""The images: one entry each. The order is the order in which they are built."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        name: its repository is `tuneyard/<name>`.
        files: paths that its build copies (directories whole); with the Dockerfile, its identity.
        parents: build argument -> image that it stands on; their tags are part of its identity.
        args: build arguments that are part of its identity; `None` is filled in from the command line.
        shipped: whether it runs in a cluster (the others only serve the build).
        tool: it only makes things that locks pin, so its tag is not part of the identity of what it makes.
    """

    name: str
    dockerfile: str
    files: tuple[str, ...] = ()
    parents: dict[str, str] = field(default_factory=dict)
    args: dict[str, str | None] = field(default_factory=dict)
    shipped: bool = False
    tool: bool = False


def _code(name: str, deps: str, *packages: str) -> Image:
    """The thin image with our own packages on an image of dependencies whose environment is /opt/<name>."""
    return Image(
        name,
        "images/code/Dockerfile",
        files=tuple(f"{package}/{part}" for package in packages for part in ("pyproject.toml", "src")),
        parents={"DEPS_IMAGE": deps, "BUILDER_IMAGE": "builder"},
        args={"PACKAGES": " ".join(packages), "ENVIRONMENT": f"/opt/{name}"},
        shipped=True,
    )


def _go(name: str, package: str) -> Image:
    """An image of one binary, which the host builds from its Go module."""
    dockerfile = f"images/{name}/Dockerfile"
    return Image(name, dockerfile, parents={"BASE_IMAGE": "base"}, args={"GO_PACKAGE": package}, shipped=True)


_ON_BASE = {"BASE_IMAGE": "base", "BUILDER_IMAGE": "builder"}
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
    Image("torch", "images/torch/Dockerfile", ("images/torch/requirements.lock",), _ON_BASE),
    Image(
        "trainer-deps",
        "images/trainer/Dockerfile",
        ("images/trainer/trainer.lock", "images/trainer/quantizer.lock", "images/trainer/triton.lock"),
        _ON_TORCH,
    ),
    _code("trainer", "trainer-deps", "crds", "store", "trainer"),
    Image(
        "server-deps",
        "images/server/Dockerfile",
        ("images/server/cpu.lock", "images/server/cuda.lock", "images/server/vllm.metadata"),
        _ON_TORCH,
        args={"VLLM_BUILD": None},
    ),
    _code("server", "server-deps", "crds", "store", "server"),
)

BY_NAME = {image.name: image for image in IMAGES}
SHIPPED = tuple(image.name for image in IMAGES if image.shipped)
