"""The evaluation report: one HTML file that needs no other file."""

from tuneyard_api.contracts.results import EvaluateResult
from tuneyard_api.registry import METRICS
from tuneyard_trainer.reports.render import render


def render_html(name: str, digest: str, result: EvaluateResult) -> str:
    """A page with the measurements as tables and bars, and the gates.

    Args:
        name: of the FineTuneJob.
        digest: of the evaluate stage.
    """
    higher_is_better = {metric: entry.higher_is_better for metric, entry in METRICS.items()}
    return render("evaluation.html", name=name, digest=digest, result=result, higher_is_better=higher_is_better)
