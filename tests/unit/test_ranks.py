"""The comparison of ranks: four jobs that share one prepare, and the table that is made of them."""

from pathlib import Path
from typing import Any

import yaml

from ranks.compare import table
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.stages import stage_digests

RANKS = Path(__file__).parents[2] / "examples" / "ranks"


def documents() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in RANKS.glob("*.yaml")]


def test_the_jobs_differ_in_the_rank_alone_and_share_one_prepare() -> None:
    specs = [FineTuneJobSpec.model_validate(document["spec"]) for document in documents()]
    assert sorted(spec.training.lora.rank for spec in specs) == [8, 16, 32, 64]
    assert {spec.training.lora.alpha / spec.training.lora.rank for spec in specs} == {2}
    digests = [stage_digests(spec, {"model": "the same"}) for spec in specs]
    assert len({(spec.output.uri, digest["prepare"]) for spec, digest in zip(specs, digests, strict=True)}) == 1
    assert len({digest["train"] for digest in digests}) == 4


def finished(job: dict[str, Any], losses: list[float], kept: int) -> dict[str, Any]:
    curve = [{"step": 10 * index, "validationLoss": loss} for index, loss in enumerate(losses)]
    training = {"steps": 20, "keptStep": kept, "sizeBytes": 2_500_000, "verdict": "Settled.", "curve": curve}
    stage = {"name": "train", "startedAt": "2026-01-01T10:00:00Z", "finishedAt": "2026-01-01T10:12:00Z"}
    measured = [{"subject": "tuned", "metric": "perplexity", "value": 3.5}]
    status = {"phase": "Succeeded", "stages": [stage], "training": training, "evaluation": {"measurements": measured}}
    return job | {"status": status}


def test_table() -> None:
    jobs = {int(job["spec"]["training"]["lora"]["rank"]): job for job in documents()}
    made = [jobs[64], finished(jobs[16], [3.0, 1.5, 1.75], kept=10), finished(jobs[8], [3.0, 2.0, 1.9], kept=20)]
    header, _, first, second, empty, left_out = table(made).split("\n")
    assert header.startswith("| rank | adapter MB | minutes |")
    assert first == "| 8 | 2.5 | 12 | 1.9000 | 20 | 20 | 1.9000 | 3.500 | Settled. |"
    assert second == "| 16 | 2.5 | 12 | 1.5000 | 10 | 20 | 1.7500 | 3.500 | Settled. |"
    assert empty == ""
    assert left_out == "rank-64 has not succeeded: Pending"
