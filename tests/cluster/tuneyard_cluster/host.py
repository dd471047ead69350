"""Checks of the host; they raise Refused with advice if the host does not meet a requirement."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from tuneyard_cluster.bounded_runc import bounding_set, lacking
from tuneyard_cluster.shell import Refused, run, step

DISK_GB = 25
MEMORY_GIB = 8


def check_kind_of_host() -> None:
    if sys.platform != "linux":
        raise Refused(f"The test cluster runs on Linux, this is {sys.platform}. Use a Linux (virtual) machine.")
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before uv chooses the interpreter
        raise Refused(f"Python 3.11 or later is needed, this is {platform.python_version()}.")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if memory < MEMORY_GIB:
        raise Refused(f"This host has {memory:.1f} GiB of memory; the cluster and one model server need {MEMORY_GIB}.")


def check_disk(*places: Path) -> None:
    """Raises Refused if a file system of `places` has too little space for images; a missing path means its parent."""
    for place in (next(path for path in (place, *place.parents) if path.exists()) for place in places):
        free = shutil.disk_usage(place).free / 1e9
        if free < DISK_GB:
            raise Refused(
                f"{place} has {free:.0f} GB free; the images need {DISK_GB}. "
                "Free some, e.g. with `docker system prune`, or point TUNEYARD_CACHE and docker's data-root elsewhere."
            )


def check_root(what_for: str) -> None:
    if os.geteuid() != 0:
        raise Refused(f"Root is needed to {what_for}. Run this with sudo, or provide it yourself first.")


def install(*packages: str) -> None:
    """Installs Debian packages, which needs root."""
    names = " ".join(packages)
    if not shutil.which("apt-get"):
        raise Refused(f"Needed here: {names}; this host has no apt-get. Install them with its own package manager.")
    check_root(f"install {names}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"install {names}"):
        run("apt-get", "update", "-q", env=quiet, timeout=300)
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages, env=quiet, timeout=600)


def lacking_capabilities() -> list[str]:
    """The capabilities of the kernel that are not in the bounding set of this process."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return lacking(bounding_set(Path("/proc/self/status").read_text()), last)


def default_route_mtu(routes: str, interfaces: Path = Path("/sys/class/net")) -> int:
    """The MTU in bytes of the default route in the text of /proc/net/route; 1500 if there is none."""
    for interface, destination, *_ in (line.split() for line in routes.splitlines()[1:]):
        if destination == "00000000":
            return int((interfaces / interface / "mtu").read_text())
    return 1500


def architecture() -> str:
    """The name of this machine's architecture in Go and Debian."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
