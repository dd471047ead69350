"""Prints the table that compares FineTuneJobs of different ranks, from their status: compare.py < jobs.json

kubectl get finetunejobs -l tuneyard.dev/comparison=ranks -o json | python examples/ranks/compare.py
"""

import json
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

Json = dict[str, Any]

HEADER = (
    "| rank | adapter MB | minutes | lowest validation loss | at step | of steps | at the end | perplexity | verdict |"
    "\n|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)


def table(jobs: Iterable[Json]) -> str:
    """A row for each job that has succeeded, by rank; a job that has not is named below."""
    ordered = sorted(jobs, key=rank)
    done = [job for job in ordered if job.get("status", {}).get("phase") == "Succeeded"]
    others = [job for job in ordered if job not in done]
    left_out = [f"{job['metadata']['name']} has not succeeded: {phase(job)}" for job in others]
    return "\n".join([HEADER, *map(row, done), *(["", *left_out] if left_out else [])])


def row(job: Json) -> str:
    training = job["status"]["training"]
    curve = {point["step"]: point["validationLoss"] for point in training["curve"]}
    figures = [
        str(rank(job)),
        f"{training['sizeBytes'] / 1e6:.1f}" if "sizeBytes" in training else "",
        f"{minutes(job):.0f}",
        f"{curve[training['keptStep']]:.4f}",
        str(training["keptStep"]),
        str(training["steps"]),
        f"{curve[max(curve)]:.4f}",
        perplexity(job),
        training.get("verdict", ""),
    ]
    return f"| {' | '.join(figures)} |"


def rank(job: Json) -> int:
    return int(job["spec"]["training"]["lora"]["rank"])


def phase(job: Json) -> str:
    return str(job.get("status", {}).get("phase", "Pending"))


def minutes(job: Json) -> float:
    """That the train stage ran."""
    stage = next(stage for stage in job["status"]["stages"] if stage["name"] == "train")
    if not stage.get("startedAt"):
        return 0.0
    began, ended = (datetime.fromisoformat(stage[name]) for name in ("startedAt", "finishedAt"))
    return (ended - began).total_seconds() / 60


def perplexity(job: Json) -> str:
    measured = job["status"].get("evaluation", {}).get("measurements", [])
    found = [item["value"] for item in measured if (item["subject"], item["metric"]) == ("tuned", "perplexity")]
    return f"{found[0]:.3f}" if found else ""


if __name__ == "__main__":
    print(table(json.load(sys.stdin)["items"]))
