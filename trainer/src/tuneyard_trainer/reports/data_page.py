"""The data report as a page."""

import json
from pathlib import Path

from tuneyard_api.contracts.results import REPORT_FILES
from tuneyard_trainer.reports import plots
from tuneyard_trainer.reports.data_document import DataDocument
from tuneyard_trainer.reports.render import render


def write_report(directory: Path, data: DataDocument) -> None:
    """Writes report.json and report.html."""
    (directory / "report.json").write_text(json.dumps(data.wire(), indent=2, ensure_ascii=False))
    (directory / REPORT_FILES["prepare"]).write_text(render_html(data))


def render_html(data: DataDocument) -> str:
    """report.html: one file that needs no other."""
    funnel = [
        plots.Bar("read", data.rows_in, f"{data.rows_in:,}"),
        *(plots.Bar(item.reason, item.rows, f"{item.rows:,}", colour=1) for item in data.reasons),
        plots.Bar("kept", data.rows_kept, f"{data.rows_kept:,}", colour=2),
    ]
    edges = [item.begin for item in data.lengths] + [item.end for item in data.lengths[-1:]]
    counts = [item.rows for item in data.lengths]
    return render(
        "data.html",
        data=data,
        funnel=plots.bars(funnel),
        histogram=plots.histogram(edges, counts, "tokens per row", "rows") if counts else "",
    )
