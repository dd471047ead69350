"""Calls of the docker command line; no other module runs it."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# The classic builder: Debian 12 has no buildx plugin, without which docker has no other builder.
_ENVIRONMENT = {**os.environ, "DOCKER_BUILDKIT": "0"}


class DockerError(Exception):
    """A docker command failed. The message holds the end of its output."""


def _run(*args: str, data: bytes | None = None) -> str:
    done = subprocess.run(
        ["docker", *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_ENVIRONMENT, check=False
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise DockerError(f"docker {args[0]} failed with exit code {done.returncode}:\n{output[-4000:]}")
    return output


def require() -> None:
    """Raises DockerError, which says how to start an engine, when no docker engine answers."""
    try:
        _run("version")
    except (DockerError, FileNotFoundError) as error:
        raise DockerError("no docker engine answers: `make cluster` installs and starts one") from error


def exists(reference: str) -> bool:
    """Whether the engine holds this image."""
    try:
        _run("image", "inspect", reference)
    except DockerError:
        return False
    return True


def pull(reference: str) -> bool:
    """Whether the image could be pulled."""
    try:
        _run("pull", "--quiet", reference)
    except DockerError:
        return False
    return True


def build(reference: str, dockerfile: str, context: bytes, args: Mapping[str, str]) -> None:
    """Builds an image from a context (a tar). Deletes the build stage's image, which would double the disk usage."""
    given = [f"--build-arg={name}={value}" for name, value in args.items()]
    try:
        options = ["--network=host", "--force-rm", "--no-cache", f"--tag={reference}", f"--file={dockerfile}"]
        _run("build", *options, *given, "-", data=context)
    finally:
        _run("image", "prune", "--force", "--filter", "label=dev.tuneyard.stage=build")


def push(reference: str, remote: str) -> str:
    """Pushes an image under the reference that it has in a registry, and returns its digest there."""
    _run("tag", reference, remote)
    try:
        _run("push", "--quiet", remote)
        return digest_in(json.loads(_run("image", "inspect", "--format", "{{json .RepoDigests}}", remote)), remote)
    finally:
        remove(remote)


def digest_in(digests: Sequence[str], remote: str) -> str:
    """The digest of `<repository>:<tag>` among the `<repository>@<digest>` that an image has in registries.

    Raises:
        DockerError: it has none there.
    """
    repository = remote.rpartition(":")[0]
    found = [digest for where, _, digest in (each.partition("@") for each in digests) if where == repository]
    if not found:
        raise DockerError(f"the registry told no digest of {remote}, only {', '.join(digests) or 'nothing'}")
    return found[-1]


def import_root(reference: str, directory: Path) -> None:
    """Makes an image of one layer from a root file system."""
    with subprocess.Popen(["tar", "-C", str(directory), "-c", "."], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(["docker", "import", "-", reference], stdin=tar.stdout, capture_output=True, check=False)
    if done.returncode or tar.returncode:
        raise DockerError(f"docker import failed: {done.stderr.decode(errors='replace')}")


def list_references() -> list[str]:
    """Every `tuneyard/<name>:<tag>` that the engine holds."""
    return _run("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=tuneyard/*").split()


def remove(reference: str) -> bool:
    """Removes an image. Returns False when a container uses it."""
    try:
        _run("image", "rm", reference)
    except DockerError:
        return False
    return True


def run(reference: str, *command: str, mounts: Mapping[Path, str], user: str, network: str = "none") -> str:
    """Runs a command in a container with the restrictions of a pod: no capabilities, read-only root.

    Args:
        mounts: host directory -> `<path in the container>[:ro]`.
        user: `<uid>:<gid>`.
    """
    volumes = [part for source, target in mounts.items() for part in ("-v", f"{source}:{target}")]
    limits = [
        "--read-only",
        "--tmpfs=/tmp",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        f"--network={network}",
    ]
    return _run("run", "--rm", *limits, f"--user={user}", *volumes, reference, *command)
