"""versitygw, the demo's S3 server, as a static binary from its Go module."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import cache
from .docker import DockerError


def versitygw(version: str) -> Path:
    """The binary in the cache, built when it is not there (about a minute).

    Raises:
        DockerError: Go is missing or the build fails.
    """
    target = cache.directory("bin") / f"versitygw-{version}"
    if target.exists():
        return target
    if not shutil.which("go"):
        raise DockerError("the S3 server is built from its Go module: install Go 1.24 or newer (https://go.dev/dl)")
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        module = f"github.com/versity/versitygw/cmd/versitygw@{version}"
        command = ["go", "install", "-trimpath", "-ldflags=-s -w", module]
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": directory, "GOFLAGS": "-mod=mod"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DockerError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
        Path(directory, "versitygw").rename(target)
    return target
