"""What a FineTuneJob's evaluation measured, of any metric, as text."""

from typing import Final

from tuneyard_api.registry import BASE, METRICS
from tuneyard_cli.objects import Json

# An operator newer than this command may measure more than METRICS has.
HIGHER_IS_BETTER: Final = frozenset(name for name, metric in METRICS.items() if metric.higher_is_better)


def by_metric(evaluation: Json) -> dict[str, dict[str, float]]:
    """The measured values by metric, and then by subject."""
    values: dict[str, dict[str, float]] = {}
    for measured in evaluation.get("measurements", []):
        values.setdefault(measured["metric"], {})[measured["subject"]] = measured["value"]
    return values


def better(metric: str) -> str:
    return "higher" if metric in HIGHER_IS_BETTER else "lower"


def against_base(subject: str, values: dict[str, float]) -> str:
    """The change in percent, for example -66.7 %; empty for the base model itself."""
    base = values.get(BASE)
    return f"{100 * (values[subject] / base - 1):+.1f} %" if base and subject != BASE else ""


def values_text(values: dict[str, float]) -> str:
    """For example: base 9.0000, tuned 3.0000 (-66.7 %)."""
    return ", ".join(_value_text(subject, values) for subject in values)


def _value_text(subject: str, values: dict[str, float]) -> str:
    change = against_base(subject, values)
    return f"{subject} {values[subject]:.4f}" + (f" ({change})" if change else "")


def gate_text(gate: Json) -> str:
    """For example: perplexity of tuned 3.0000, against base at most 6.3000."""
    bound = "at least" if gate["metric"] in HIGHER_IS_BETTER else "at most"
    measured = f"{gate['metric']} of {gate['subject']} {gate['value']:.4f}"
    return f"{measured}, against {gate['against']} {bound} {gate['limit']:.4f}"


def gates_text(evaluation: Json) -> str:
    """For example: 5 of 6 gates passed; empty where there are none."""
    passed, failed = evaluation.get("gatesPassed", 0), evaluation.get("gatesFailed", 0)
    return f"{passed} of {passed + failed} gates passed" if passed + failed else ""
