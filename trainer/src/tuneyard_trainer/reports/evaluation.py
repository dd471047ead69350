"""The evaluation report as one HTML file that needs nothing else: pure functions."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Json = dict[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .8rem .3rem 0 }
tr { border-bottom: 1px solid #ddd } td.number { font-variant-numeric: tabular-nums }
.passed { color: #13692f } .failed { color: #a3191f }
"""
BAR_HEIGHT, BAR_GAP, LABEL_WIDTH, BAR_WIDTH, VALUE_WIDTH = 24, 10, 80, 520, 80  # pixels


def render_html(report: Json) -> str:
    """A page with the perplexities as table and bars, and the gates."""
    verdict = "passed" if report["passed"] else "failed"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Evaluation of {escape(report["name"])}</title>
<style>{STYLE}</style></head><body>
<h1>{escape(report["name"])}</h1>
<p>Gates <strong class="{verdict}">{verdict}</strong>. Held-out perplexity over {report["tokens"]} answer tokens of
{report["rows"]} rows that were never trained on; lower is better.</p>
{bars(report["perplexity"])}
{perplexity_table(report["perplexity"])}
<h2>Gates</h2>
{gate_table(report["gates"])}
<p>Run {escape(report["digest"])}</p>
</body></html>
"""


def perplexity_table(perplexity: Mapping[str, float]) -> str:
    base = perplexity["base"]
    rows = [[name, f"{value:.4f}", f"{100 * (value / base - 1):+.1f} %"] for name, value in perplexity.items()]
    return table(["model", "perplexity", "against base"], rows)


def gate_table(gates: Sequence[Json]) -> str:
    rows = [
        [
            gate["subject"],
            f"{gate['metric']} against {gate['against']}",
            f"{gate['value']:.4f}",
            f"{gate['limit']:.4f}",
            "passed" if gate["passed"] else "failed",
        ]
        for gate in gates
    ]
    return table(["model", "gate", "measured", "limit", ""], rows) if rows else "<p>No gates are set.</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(cell(text) for text in row)}</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def cell(text: str) -> str:
    kind = text if text in ("passed", "failed") else "number"
    return f'<td class="{kind}">{escape(text)}</td>'


def bars(values: Mapping[str, float]) -> str:
    """A bar chart as inline SVG; the longest bar is the largest value."""
    largest = max(values.values())
    lines = []
    for number, (name, value) in enumerate(values.items()):
        top, width = number * (BAR_HEIGHT + BAR_GAP), BAR_WIDTH * value / largest
        colour = "#9aa5b1" if name == "base" else "#2f6fb0"
        baseline = top + BAR_HEIGHT * 0.7
        lines.append(
            f'<text x="0" y="{baseline:.1f}">{escape(name)}</text>'
            f'<rect x="{LABEL_WIDTH}" y="{top}" width="{width:.1f}" height="{BAR_HEIGHT}" fill="{colour}"/>'
            f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{baseline:.1f}">{value:.2f}</text>'
        )
    height = len(values) * (BAR_HEIGHT + BAR_GAP)
    width = LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH
    content = "\n".join(lines)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Perplexity of each model">\n{content}\n</svg>'
