"""The model card that goes with a release: where the model comes from, how good it is, how to serve it."""

from typing import Any

Json = dict[str, Any]


def render_model_card(release: Json) -> str:
    """Markdown of a release (the content of release.json)."""
    spec, recommended, data = release["spec"], release["recommended"], release["dataset"]
    artifacts = "\n".join(
        f"| {each['format']} | {each['sizeBytes'] / 1e6:.1f} | {_number(each['perplexity'])} | `{each['uri']}` | `{each['digest']}` |"
        for each in release["artifacts"]
    )
    perplexity = "\n".join(f"| {name} | {_number(value)} |" for name, value in release["perplexity"].items())
    gates = "\n".join(
        f"| {each['subject']} | {each['metric']} | {each['against']} | {_number(each['value'])} | {_number(each['limit'])} | "
        f"{'passed' if each['passed'] else 'failed'} |"
        for each in release["gates"]
    )
    sources = "\n".join(f"- `{each['uri']}`" for each in spec["dataset"]["train"])
    return f"""# {release["name"]}

`{spec["model"]["uri"]}`, tuned with {spec["training"]["method"]} on {data["rowsKept"]:,} rows ({data["tokens"]:,} tokens).
Last training loss: {_number(release["loss"])}.

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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
