"""Gates: bounds on measured values that decide what is published and recommended. One module for each bound."""

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from tuneyard_api.kinds.finetunejob import Gate
from tuneyard_api.kinds.finetunejob_status import GateStatus, Measurement
from tuneyard_api.registry import BASE, TUNED, module_name

DECIMALS = 4


class Bound(Protocol):
    """What the module of a bound has."""

    def limit(self, value: float, reference: float) -> float:
        """The limit on the measured value, from the gate's value and the value of the model that it is against."""
        ...

    def passes(self, measured: float, limit: float) -> bool: ...


class Verdict(NamedTuple):
    gates: list[GateStatus]
    failure: str | None
    """Why nothing may be published; None when something may."""

    @property
    def passed(self) -> bool:
        return self.failure is None


def bound_of(name: str) -> Bound:
    """The module of a bound of tuneyard_api.registry.GATES."""
    return cast(Bound, import_module(f"{__name__}.{module_name(name)}"))


def judge(gates: Sequence[Gate], measurements: Sequence[Measurement], formats: Sequence[str]) -> Verdict:
    """Applies each gate to the models that it is about.

    A gate against base is about the tuned model: if it fails, nothing passes. A gate against tuned, or against base
    where nothing is tuned, is about each quantized artifact: one that fails is not recommended, and only when no
    artifact is left does nothing pass.

    Args:
        measurements: of base, of tuned unless nothing is tuned, and of each quantized format.
        formats: the artifacts of the release.
    """
    statuses = [status for gate in gates for status in _apply(gate, measurements)]
    failed = [status for status in statuses if not status.passed]
    tuned_failed = [status for status in failed if status.subject == TUNED]
    if tuned_failed:
        return Verdict(statuses, explain(tuned_failed[0]))
    if {status.subject for status in failed}.issuperset(formats):
        return Verdict(statuses, explain(failed[0]))
    return Verdict(statuses, None)


def _apply(gate: Gate, measurements: Sequence[Measurement]) -> list[GateStatus]:
    measured = {item.subject: item.value for item in measurements if item.metric == gate.metric}
    artifacts = [name for name in measured if name not in (BASE, TUNED)]
    subjects = [TUNED] if gate.against == BASE and TUNED in measured else artifacts
    bound = bound_of(gate.bound)
    limit = bound.limit(gate.value, measured[gate.against])
    return [
        GateStatus(
            metric=gate.metric,
            against=gate.against,
            subject=subject,
            value=round(measured[subject], DECIMALS),
            limit=round(limit, DECIMALS),
            passed=bound.passes(measured[subject], limit),
        )
        for subject in subjects
    ]


def explain(status: GateStatus) -> str:
    """A gate in words, for one that failed."""
    return (
        f"{status.metric} of {status.subject} is {status.value:.4g}, the gate against {status.against} "
        f"allows {status.limit:.4g}"
    )
