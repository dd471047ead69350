"""Figures as a person reads them."""

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def kibibytes(count: float) -> str:
    return f"{count / 2**10:.1f} KiB"


def seconds(count: float) -> str:
    return f"{count:.2f} s" if count < 100 else f"{count:.0f} s"
