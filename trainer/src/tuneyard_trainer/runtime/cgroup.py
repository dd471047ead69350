"""What the kernel tells of the memory of this container."""

import re
from pathlib import Path
from typing import Final

OOM_KILL: Final = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_kills(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """How many processes of this control group the kernel has killed for their memory; None: it cannot be known.

    Source: memory.events in the kernel's cgroup-v2.rst.
    """
    try:
        group = next(line[3:] for line in membership.read_text().splitlines() if line.startswith("0::"))
        found = OOM_KILL.search((root / group.lstrip("/") / "memory.events").read_text())
    except (OSError, StopIteration):
        return None
    return int(found[1]) if found else None
