"""How often the kernel has killed a process of this container because its memory limit was reached."""

import re
from pathlib import Path
from typing import Final

EVENTS: Final = Path("/sys/fs/cgroup/memory.events")  # of cgroup v2; without it nothing is known


class OutOfMemoryCount:
    """Compares the kernel's count with the one at the beginning."""

    def __init__(self, events: Path = EVENTS) -> None:
        self._events = events
        self._before = self._read()

    def has_grown(self) -> bool:
        return self._read() > self._before

    def _read(self) -> int:
        text = self._events.read_text() if self._events.is_file() else ""
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0
