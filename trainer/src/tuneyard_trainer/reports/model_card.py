"""The model card that goes with a release: where the model comes from, how good it is, how to serve it."""

from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]


def render_model_card(release: Json) -> str:
    """Markdown of a release (the content of release.json)."""
    spec, recommended, data = release["spec"], release["recommended"], release["dataset"]
    artifacts = table(
        [each["format"], f"{each['sizeBytes'] / 1e6:.1f}", number(each["perplexity"]), each["uri"], each["digest"]]
        for each in release["artifacts"]
    )
    perplexity = table([name, number(value)] for name, value in release["perplexity"].items())
    gates = table(
        [each["subject"], each["metric"], each["against"], number(each["value"]), number(each["limit"]), verdict(each)]
        for each in release["gates"]
    )
    sources = "\n".join(f"- `{each['uri']}`" for each in spec["dataset"]["train"])
    return f"""# {release["name"]}

Base model: `{spec["model"]["uri"]}`, tuned with {spec["training"]["method"]}
on {data["rowsKept"]:,} rows ({data["tokens"]:,} tokens).
Last training loss: {number(release["loss"])}.

Recommended: **{recommended["format"]}**, {recommended["reason"]}.

## Artifacts

| format | MB | perplexity | uri | digest |
|---|---:|---:|---|---|
{artifacts}

## Held-out perplexity

| model | perplexity |
|---|---:|
{perplexity}

## Gates

| subject | metric | against | value | limit | |
|---|---|---|---:|---:|---|
{gates}

## Data

{sources}

{data["rowsKept"]:,} of {data["rowsIn"]:,} rows kept, digest `{data["digest"]}`; report: `{data["reportURI"]}`.

## Serve it

```yaml
apiVersion: tuneyard.dev/v1alpha1
kind: ModelServer
metadata:
  name: {release["name"]}
spec:
  model:
    fineTuneJobRef:
      name: {release["name"]}
```
"""


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def verdict(gate: Json) -> str:
    return "passed" if gate["passed"] else "failed"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
