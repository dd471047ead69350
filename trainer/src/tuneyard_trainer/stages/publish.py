"""The publish stage: sums up what the others have made, says which artifact to serve, writes the release."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tuneyard_trainer.reports.model_card import render_model_card
from tuneyard_trainer.runtime.stage_runner import StageContext

Json = dict[str, Any]

TUNED: Final = "tuned"


def run(context: StageContext) -> Json:
    """Writes the model card and then release.json; runs in seconds and may run again."""
    prepared, trained, exported, evaluated = (
        context.result_of(stage) for stage in ("prepare", "train", "export", "evaluate")
    )
    artifacts = measured(exported["artifacts"], evaluated["perplexity"])
    release_uri = context.uri("publish", "release.json")
    result = {
        "artifacts": artifacts,
        "recommended": recommend(artifacts, evaluated["gates"]),
        "perplexity": evaluated["perplexity"],
        "gates": evaluated["gates"],
        "passed": evaluated["passed"],
        "reportURI": evaluated.get("reportURI"),
        "releaseURI": release_uri,
        "dataset": prepared["dataset"],
        "loss": trained["loss"],
    }
    adapter = {"uri": trained["adapterURI"], "digest": trained["adapterDigest"]}
    origin = {"name": context.name, "spec": context.spec.wire(), "digests": context.digests, "adapter": adapter}
    card = render_model_card(origin | result)
    context.store.write(context.uri("publish", "README.md"), card.encode(), "text/markdown; charset=utf-8")
    context.store.write(release_uri, json.dumps(origin | result, indent=2).encode(), "application/json")
    return result


def measured(artifacts: Sequence[Json], perplexity: Mapping[str, float]) -> list[Json]:
    """The artifacts with their perplexity; bf16 is the tuned model itself."""
    return [
        each | {"perplexity": perplexity.get(TUNED if each["format"] == "bf16" else each["format"])}
        for each in artifacts
    ]


def recommend(artifacts: Sequence[Json], gates: Sequence[Json]) -> Json:
    """The smallest artifact whose gates have passed; where none has, the one with the lowest perplexity."""
    failed = {gate["subject"] for gate in gates if not gate["passed"]}
    passed = [each for each in artifacts if each["format"] not in failed]
    if TUNED in failed or not passed:
        chosen = min(artifacts, key=lambda each: (each["perplexity"], each["sizeBytes"]))
        why = f"lowest perplexity ({chosen['perplexity']:.4g}), though a gate failed"
    else:
        chosen = min(passed, key=lambda each: (each["sizeBytes"], each["format"]))
        why = _why_smallest(chosen, passed, failed)
    return {"format": chosen["format"], "uri": chosen["uri"], "digest": chosen["digest"], "reason": why}


def _why_smallest(chosen: Json, passed: Sequence[Json], failed: set[str]) -> str:
    size = f"{chosen['sizeBytes'] / 1e6:.0f} MB"
    skipped = f"; {', '.join(sorted(failed))} failed" if failed else ""
    if len(passed) == 1:
        return f"the only artifact whose gates passed ({size}{skipped})"
    figures = f"{size}, perplexity {chosen['perplexity']:.4g}{skipped}"
    return f"smallest of {len(passed)} artifacts whose gates passed ({figures})"
