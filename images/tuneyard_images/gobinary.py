"""Programs of the test cluster as static binaries from their Go modules."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import cache
from .docker import DockerError


def name(package: str) -> str:
    """The name that `go install` gives the binary."""
    return package.rpartition("@")[0].rpartition("/")[2]


def build(package: str) -> Path:
    """The binary of `<package>@<version>` in the cache; building it takes minutes.

    Raises:
        DockerError: Go is missing or the build fails.
    """
    target = cache.directory("bin") / f"{name(package)}-{package.rpartition('@')[2]}"
    if target.exists():
        return target
    if not shutil.which("go"):
        raise DockerError(f"{name(package)} is built from its Go module: install Go 1.25 or newer (https://go.dev/dl)")
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        command = ["nice", "go", "install", "-trimpath", "-ldflags=-s -w", package]
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": directory, "GOFLAGS": "-mod=mod"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DockerError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
        Path(directory, name(package)).rename(target)
    return target
