"""Plots for the reports, drawn by matplotlib: SVG images within the page, which need no network.

Their colours have a contrast of at least 3 to 1 on white and on black, because an image does not know the page's theme.
Text stays text. Beside each plot a report has the same figures as a table.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH: Final = 5.0  # inches: the text stays legible where a phone shrinks the image
HEIGHT: Final = 2.4
BAR_HEIGHT: Final = 0.32
INK: Final = "#777777"
COLOURS: Final = ("#3d82c4", "#c26a1c", "#3f9150", "#a467b0")
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tuneyard",  # the same figures give the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "savefig.transparent": True,
    "text.parse_math": False,  # a dollar sign is a dollar sign
}


class Bar(NamedTuple):
    """One bar, and the text behind it."""

    label: str
    value: float
    text: str
    colour: int = 0
    """Its number in COLOURS."""


def bars(items: Sequence[Bar]) -> str:
    """Horizontal bars, the first one on top, as a data URI."""

    def paint(axes: "Axes") -> None:
        colours = [COLOURS[item.colour] for item in items]
        drawn = axes.barh(range(len(items)), [item.value for item in items], color=colours, height=0.7)
        axes.bar_label(drawn, [item.text for item in items], padding=3)
        axes.set_yticks(range(len(items)), [item.label for item in items])
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)

    return _drawn(0.3 + BAR_HEIGHT * len(items), paint)


class Point(NamedTuple):
    """A point, and the text beside it."""

    label: str
    x: float
    y: float
    colour: int = 0
    """Its number in COLOURS."""


def scatter(points: Sequence[Point], x: str, y: str) -> str:
    """Labelled points, as a data URI."""

    def paint(axes: "Axes") -> None:
        colours = [COLOURS[point.colour] for point in points]
        axes.scatter([point.x for point in points], [point.y for point in points], color=colours, s=24)
        for point in points:
            axes.annotate(point.label, (point.x, point.y), (4, 4), textcoords="offset points")
        axes.set(xlabel=x, ylabel=y)
        axes.margins(x=0.18, y=0.18)

    return _drawn(HEIGHT, paint)


def histogram(edges: Sequence[int], counts: Sequence[int], x: str, y: str) -> str:
    """How many values lie from each edge up to the next one, as a data URI."""

    def paint(axes: "Axes") -> None:
        axes.stairs(counts, edges, fill=True, color=COLOURS[0])
        axes.set(xlabel=x, ylabel=y, xlim=(edges[0], edges[-1]))

    return _drawn(HEIGHT, paint)


def curves(series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, marked: float | None = None) -> str:
    """A line for each series of points (x, y), told apart by its marker too, as a data URI.

    Args:
        marked: a place on the x axis that is kept.
    """

    def paint(axes: "Axes") -> None:
        for (name, points), colour, marker in zip(series.items(), COLOURS, "os^D", strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name)
        if marked is not None:
            axes.axvline(marked, color=INK, linestyle=":", label=f"kept: {marked:g}")
        axes.set(xlabel=x, ylabel=y)
        axes.legend()

    return _drawn(HEIGHT, paint)


def _drawn(height: float, paint: "Callable[[Axes], None]") -> str:
    # Here, so that importing this module stays cheap.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    target = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure((WIDTH, height))
        paint(figure.subplots())
        figure.savefig(target, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return f"data:image/svg+xml;base64,{base64.b64encode(target.getvalue()).decode()}"
