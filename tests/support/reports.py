"""What the stages of a FineTuneJob report in their termination messages."""

from typing import Any

from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES

Json = dict[str, Any]

CHAIN: tuple[Stage, ...] = tuple(STAGES)
DIGESTS: dict[str, str] = {stage: f"{index}" * 64 for index, stage in enumerate(CHAIN)}
DATASET = {"rowsIn": 10, "rowsKept": 9, "dropped": {"duplicate": 1}, "tokens": 90, "digest": "d" * 64}
BUILT = {"format": "bf16", "digest": f"sha256:{'a' * 64}", "sizeBytes": 7, "perplexity": 3.5}
FIT = {
    "verdict": "DoesNotFit",
    "requiredGiB": 30.5,
    "availableGiB": 22.5,
    "device": "NVIDIA-L4",
    "parts": {"weights": 15.3, "logits": 15.2},
    "advice": "Set training.microBatchSize: 1 (12.0 GiB).",
}
# The same artifact in the status.
ARTIFACT = BUILT | {"uri": f"s3://out/runs/{DIGESTS['export']}/export/bf16"}


def measurements(**perplexity: float) -> list[Json]:
    """The measurements of evaluate, by subject."""
    return [{"subject": subject, "metric": "perplexity", "value": value} for subject, value in perplexity.items()]


def evaluated(measured: list[Json], gates: list[Json] | None = None) -> Json:
    """The report of evaluate."""
    gates = gates or []
    failed = sum(not gate["passed"] for gate in gates)
    return {"measurements": measured, "gates": gates, "gatesPassed": len(gates) - failed, "gatesFailed": failed}


PREPARED: Json = {"digests": DIGESTS, "done": [], "dataset": DATASET}
PUBLISHED: Json = {
    "artifacts": [BUILT],
    "recommended": {"format": "bf16", "reason": "the only one"},
    "evaluation": evaluated(measurements(base=9.0, tuned=3.0)),
    "training": {"steps": 40, "keptStep": 35, "loss": 1.23456789, "verdict": "The validation loss has settled at 1.3."},
}
