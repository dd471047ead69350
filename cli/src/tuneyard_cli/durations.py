"""Times as people write and read them."""

import re
from datetime import datetime
from typing import Final

from tuneyard_api.durations import duration

SECONDS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Seconds of 90s, 10m, 1h30m, 2d; raises ValueError."""
    if not re.fullmatch(r"(\d+(\.\d+)?[dhms])+", text):
        raise ValueError(f"{text} is no duration: write 90s, 10m, 1h30m")
    return sum(float(count) * SECONDS[unit] for count, unit in re.findall(r"([\d.]+)([dhms])", text))


def since(timestamp: str, until: datetime) -> str:
    return duration((until - datetime.fromisoformat(timestamp)).total_seconds())
