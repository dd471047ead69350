"""Progress bars of stages that run on this machine."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tuneyard_api.contracts.progress import ProgressReport, progress_details


def progress_bars(console: Console) -> Progress:
    """An empty set of bars; they are not shown where there is no terminal."""
    return Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=not console.is_terminal,
    )


def show(bars: Progress, bar: TaskID, report: ProgressReport) -> None:
    """Brings one bar up to date."""
    bars.update(bar, completed=report.percent, detail=progress_details(report.status()))
