"""The model card of a release: where the model comes from, how good it is, how to serve it."""

from tuneyard_api.contracts.results import REPORT_FILES, Release, stage_uri
from tuneyard_trainer.reports.render import render


def render_model_card(release: Release) -> str:
    """The card in Markdown."""
    report = stage_uri(release.spec.output.uri, release.digests["prepare"], "prepare", REPORT_FILES["prepare"])
    return render("model_card.md", release=release, data_report_uri=report)
