"""How long the stages take, for Prometheus."""

from typing import Final

from prometheus_client import Histogram

from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import Json

# From seconds, for a stage that reuses an earlier result, to a week of training.
STAGES: Final = Histogram(
    "tuneyard_stage_duration_seconds",
    "A stage's Job, from its start to its success",
    ["stage"],
    buckets=(5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600, 168 * 3600),
)


def measure(before: Json, after: Json) -> None:
    """Records the duration of the stages that have succeeded between two statuses."""
    done = {stage["name"] for stage in before.get("stages", []) if stage["state"] == "Succeeded"}
    for stage in after.get("stages", []):
        is_new = stage["state"] == "Succeeded" and stage["name"] not in done
        if is_new and "startedAt" in stage and "finishedAt" in stage:
            duration = parse_time(stage["finishedAt"]) - parse_time(stage["startedAt"])
            STAGES.labels(stage["name"]).observe(duration.total_seconds())
