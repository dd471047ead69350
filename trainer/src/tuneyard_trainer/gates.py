"""Gates: bounds on the held-out perplexity that decide what is published and recommended. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tuneyard_api.kinds.finetunejob import Gate
from tuneyard_api.kinds.finetunejob_status import GateStatus

BASE, TUNED = "base", "tuned"


class Verdict(NamedTuple):
    gates: list[GateStatus]
    failure: str | None
    """Why nothing may be published; None when something may."""

    @property
    def passed(self) -> bool:
        return self.failure is None


def perplexity(nll: float, tokens: int) -> float:
    """exp of the mean negative log-likelihood per token (nats)."""
    return math.exp(min(nll / tokens, 700.0))


def judge(gates: Sequence[Gate], measured: Mapping[str, float], formats: Sequence[str]) -> Verdict:
    """Applies each gate to whom it is about.

    A gate against base is about the tuned model: if it fails, all fails. A gate against tuned is about each quantized
    artifact: one that fails is not recommended, and only when no artifact is left does all fail.

    Args:
        measured: perplexity of base, tuned and each quantized format.
        formats: the artifacts that will be listed; bf16 is the tuned model itself.
    """
    statuses = [status for gate in gates for status in _applied(gate, measured)]
    failed = {status.subject for status in statuses if not status.passed}
    if TUNED in failed:
        return Verdict(statuses, _explained(next(s for s in statuses if s.subject == TUNED and not s.passed)))
    if failed.issuperset(formats):
        return Verdict(statuses, _explained(next(s for s in statuses if not s.passed)))
    return Verdict(statuses, None)


def _applied(gate: Gate, measured: Mapping[str, float]) -> list[GateStatus]:
    subjects = [TUNED] if gate.against == BASE else [name for name in measured if name not in (BASE, TUNED)]
    limit = gate.value * measured[gate.against]
    return [
        GateStatus(
            metric=gate.metric,
            against=gate.against,
            subject=subject,
            value=round(measured[subject], 4),
            limit=round(limit, 4),
            passed=measured[subject] <= limit,
        )
        for subject in subjects
    ]


def _explained(status: GateStatus) -> str:
    return (
        f"{status.metric} of {status.subject} is {status.value:.4g}, the gate against {status.against} "
        f"allows {status.limit:.4g}"
    )
