"""A wrapper of runc that requests no capability which this host does not have.

`docker run --privileged` requests every capability of the kernel. In a virtual machine whose bounding set
lacks one, runc fails with "unable to apply caps". dockerd uses this script as its runtime: it removes the
missing capabilities from the OCI documents and then executes runc. Without missing capabilities it changes nothing.
The script is copied out of the clone and runs alone, so it uses the standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

# linux/capability.h, in the order of their bits
NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
""".split()  # noqa: SIM905 - a list of 41 strings is harder to read


def bounding_set(status: str) -> frozenset[str]:
    """The capability names ("CAP_CHOWN") in the text of a /proc/<pid>/status."""
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return frozenset(f"CAP_{name}" for bit, name in enumerate(NAMES) if mask >> bit & 1)


def lacking(allowed: frozenset[str], last: int) -> list[str]:
    """The capabilities of the kernel (bits 0..last) that are not in `allowed`."""
    return [f"CAP_{name}" for bit, name in enumerate(NAMES) if bit <= last and f"CAP_{name}" not in allowed]


def bounded(process: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """An OCI process document without the capabilities that are not in `allowed`."""
    requested = process.get("capabilities")
    if not requested:
        return process
    return process | {"capabilities": {kind: [c for c in caps if c in allowed] for kind, caps in requested.items()}}


def document(arguments: list[str]) -> tuple[Path, bool] | None:
    """The JSON file of a runc call that lists capabilities, and whether it is the config of a bundle; None if none."""

    def option(*names: str) -> str | None:
        return next((value for name, value in pairwise(arguments) if name in names), None)

    if "create" in arguments or "run" in arguments:
        return Path(option("--bundle", "-b") or ".") / "config.json", True
    process = option("--process", "-p")
    return (Path(process), False) if "exec" in arguments and process else None


def main() -> None:
    allowed = bounding_set(Path("/proc/self/status").read_text())
    if call := document(sys.argv[1:]):
        path, is_bundle = call
        before = json.loads(path.read_text())
        after = before | {"process": bounded(before["process"], allowed)} if is_bundle else bounded(before, allowed)
        if after != before:
            path.write_text(json.dumps(after))
    runc = shutil.which("runc") or "/usr/sbin/runc"
    os.execv(runc, [runc, *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
