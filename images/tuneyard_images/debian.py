"""Debian, the base of all images: from Docker Hub, or made with debootstrap where no registry can be reached."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import docker

PUBLIC = "debian:bookworm-slim"
_SUITE, _PACKAGES, _MIRROR = "bookworm", "ca-certificates", "http://deb.debian.org/debian"
_RECIPE = f"debootstrap minbase {_SUITE} {_PACKAGES} {_MIRROR} security updates 1"
LOCAL = f"tuneyard/debian:{hashlib.sha256(_RECIPE.encode()).hexdigest()[:12]}"


def resolve(requested: str | None) -> str:
    """The base image: the requested one, else one that the engine holds already, else the public one, else LOCAL."""
    if requested:
        return requested
    for reference in (LOCAL, PUBLIC):
        if docker.exists(reference):
            return reference
    return PUBLIC if docker.pull(PUBLIC) else LOCAL


def bootstrap() -> None:
    """Makes LOCAL with debootstrap; needs root and takes about a minute.

    Raises:
        docker.DockerError: debootstrap is missing or fails; the message says what to do.
    """
    if not shutil.which("debootstrap"):
        raise docker.DockerError(
            f"{PUBLIC} cannot be pulled and debootstrap is not installed: give BASE_IMAGE=<a Debian "
            "bookworm image that you can pull>, or `apt-get install debootstrap`"
        )
    with tempfile.TemporaryDirectory(prefix="tuneyard-base-") as directory:
        root = Path(directory) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root), _MIRROR]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise docker.DockerError(f"debootstrap failed: {done.stdout.decode(errors='replace')[-2000:]}")
        sources = [f"deb {_MIRROR} {_SUITE} main", f"deb {_MIRROR} {_SUITE}-updates main"]
        sources += [f"deb {_MIRROR}-security {_SUITE}-security main"]
        (root / "etc/apt/sources.list").write_text("\n".join(sources) + "\n")
        for leftover in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(root / leftover, ignore_errors=True)
        (root / "var/lib/apt/lists/partial").mkdir(parents=True)
        docker.import_root(LOCAL, root)
