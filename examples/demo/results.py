"""docs/results.md: what the demo has measured, as a page."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATE: Final = "results.md.j2"
Json = dict[str, Any]


class Answers(NamedTuple):
    """One question to both models."""

    question: str
    reference: str
    before: str
    after: str


def results_page(job: Json, answers: Sequence[Answers], perplexities: Mapping[str, float], now: datetime) -> str:
    """The page, in Markdown.

    Args:
        job: the FineTuneJob that has succeeded.
        perplexities: by subject: base, tuned, and each quantized format.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown
    )
    environment.filters["cell"] = cell
    status = job["status"]
    sizes = {artifact["format"]: artifact["sizeBytes"] for artifact in status["artifacts"]}
    return environment.get_template(TEMPLATE).render(
        day=f"{now:%Y-%m-%d}",
        machine=machine(),
        job=job,
        dataset=status["dataset"],
        training=status["training"],
        base=perplexities["base"],
        levels=[{"subject": name, "value": value, "size": sizes.get(name)} for name, value in perplexities.items()],
        stages=[{"name": stage["name"], "seconds": seconds(stage)} for stage in status["stages"]],
        rows=answers,
    )


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def seconds(stage: Json) -> int:
    began, ended = (datetime.fromisoformat(stage[name]) for name in ("startedAt", "finishedAt"))
    return round((ended - began).total_seconds())


def machine() -> str:
    cpus = Path("/proc/cpuinfo").read_text().split("\n")
    named = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), "")
    return f"{os.cpu_count()} CPUs ({named or platform.machine()}) without a GPU"
