"""The evaluation of a FineTuneJob, to paste into a pull request. Pure functions."""

from collections.abc import Iterator, Sequence

from tuneyard_cli.evaluation import against_base, better, by_metric, gates_text
from tuneyard_cli.job import dataset_text
from tuneyard_cli.objects import Json, name, namespace, status

KEYS = ("phase", "dataset", "evaluation", "artifacts", "recommended", "releaseURI")


def evaluation_report(job: Json) -> Json | None:
    """The evaluation and what belongs to it, from the status; None while nothing was measured."""
    here = status(job)
    if "evaluation" not in here:
        return None
    model = job["spec"]["model"]["uri"]
    return {"name": name(job), "namespace": namespace(job), "model": model} | {
        key: here[key] for key in KEYS if key in here
    }


def markdown(report: Json) -> str:
    """In GitHub's dialect of Markdown."""
    return "\n\n".join(_blocks(report)) + "\n"


def _blocks(report: Json) -> Iterator[str]:
    evaluation = report["evaluation"]
    verdict = gates_text(evaluation) or "no gates"
    yield f"### {report['namespace']}/{report['name']}: {report['phase']}, {verdict}"
    yield f"Base model `{report['model']}`. Measured on held-out rows."
    for metric, values in by_metric(evaluation).items():
        rows = [(model, f"{value:.4f}", against_base(model, values)) for model, value in values.items()]
        yield _table(("model", f"{metric} ({better(metric)} is better)", "against base"), rows)
    if gates := evaluation.get("gates"):
        yield _table(("gate", "measured", "limit", ""), [_gate(gate) for gate in gates])
    recommended = report.get("recommended", {})
    if artifacts := report.get("artifacts"):
        listed = [_artifact(artifact, recommended.get("format", "")) for artifact in artifacts]
        yield _table(("artifact", "size", "perplexity", "digest"), listed)
    if recommended:
        yield f"Recommended: **{recommended['format']}**, {recommended['reason']}. `{recommended['uri']}`"
    if dataset := report.get("dataset"):
        yield f"Dataset: {dataset_text(dataset)}. Digest `{dataset['digest']}`"


def _gate(gate: Json) -> tuple[str, ...]:
    verdict = "passed" if gate["passed"] else "**failed**"
    return (
        f"{gate['metric']} of {gate['subject']} against {gate['against']}",
        f"{gate['value']:.4f}",
        f"{gate['limit']:.4f}",
        verdict,
    )


def _artifact(artifact: Json, recommended: str) -> tuple[str, ...]:
    form = artifact["format"]
    shown = f"**{form}**" if form == recommended else form
    perplexity = artifact.get("perplexity")
    return shown, size(artifact["sizeBytes"]), f"{perplexity:.4f}" if perplexity else "", f"`{artifact['digest']}`"


def size(count: float) -> str:
    """Of bytes: 7 B, 1.2 kB, 105.3 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count} B"
        count /= 1000
    return f"{count:.1f} GB"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
