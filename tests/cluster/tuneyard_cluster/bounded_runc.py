"""runc, asking for no capability that this host cannot give.

`docker run --privileged` asks for every capability of the kernel. In a virtual machine whose bounding set
lacks one, runc fails with "unable to apply caps". Registered with dockerd as its runtime, this script takes
what the host lacks out of the OCI documents and then becomes runc; where nothing is lacking it changes nothing.
It is copied out of the clone and run by itself, hence the standard library only.
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
    """Capability names ("CAP_CHOWN") in the text of a /proc/<pid>/status."""
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return frozenset(f"CAP_{name}" for bit, name in enumerate(NAMES) if mask >> bit & 1)


def lacking(allowed: frozenset[str], last: int) -> list[str]:
    """Capabilities the kernel has (bits 0..last) that are not in `allowed`."""
    return [f"CAP_{name}" for bit, name in enumerate(NAMES) if bit <= last and f"CAP_{name}" not in allowed]


def bounded(process: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """An OCI process document without the capabilities that are not in `allowed`."""
    asked = process.get("capabilities")
    if not asked:
        return process
    return process | {"capabilities": {kind: [c for c in caps if c in allowed] for kind, caps in asked.items()}}


def document(arguments: list[str]) -> tuple[Path, bool] | None:
    """The file of a runc call that names capabilities, and whether it is a whole bundle's config; None if none."""

    def option(*names: str) -> str | None:
        return next((value for name, value in pairwise(arguments) if name in names), None)

    if "create" in arguments or "run" in arguments:
        return Path(option("--bundle", "-b") or ".") / "config.json", True
    process = option("--process", "-p")
    return (Path(process), False) if "exec" in arguments and process else None


def main() -> None:
    allowed = bounding_set(Path("/proc/self/status").read_text())
    if found := document(sys.argv[1:]):
        path, whole = found
        before = json.loads(path.read_text())
        after = before | {"process": bounded(before["process"], allowed)} if whole else bounded(before, allowed)
        if after != before:
            path.write_text(json.dumps(after))
    runc = shutil.which("runc") or "/usr/sbin/runc"
    os.execv(runc, [runc, *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
