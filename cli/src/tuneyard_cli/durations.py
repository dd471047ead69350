"""Times as people write and read them."""

import re
from datetime import datetime
from typing import Final

SECONDS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Seconds of 90s, 10m, 1h30m, 2d; raises ValueError."""
    if not re.fullmatch(r"(\d+(\.\d+)?[dhms])+", text):
        raise ValueError(f"{text} is no duration: write 90s, 10m, 1h30m")
    return sum(float(count) * SECONDS[unit] for count, unit in re.findall(r"([\d.]+)([dhms])", text))


def duration(seconds: float) -> str:
    """For example 4m10s."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d{hours_left:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def since(timestamp: str, until: datetime) -> str:
    return duration((until - datetime.fromisoformat(timestamp)).total_seconds())
