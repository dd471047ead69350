"""What the CPU of this machine can compute with."""

import re
from pathlib import Path

from tuneyard_api.registry import ARTIFACT_FORMATS

CPUINFO = Path("/proc/cpuinfo")


def lacks(flag: str) -> bool:
    """Whether the CPU is known not to have a flag of /proc/cpuinfo: only an x86 CPU lists its `flags`."""
    text = CPUINFO.read_text() if CPUINFO.is_file() else ""
    listed = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return listed is not None and flag not in listed[1].split()


def missing_flag(artifact_format: str | None) -> str | None:
    """The flag that serving a format on a CPU needs, and that this machine's CPU does not have."""
    known = ARTIFACT_FORMATS.get(artifact_format or "")
    flag = known.cpu_flag if known else None
    return flag if flag and lacks(flag) else None
