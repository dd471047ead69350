"""The publish stage: sums up the results of the other stages, recommends an artifact, and writes the release."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from tuneyard_api import cpu
from tuneyard_api.contracts.results import (
    RELEASE_FILE,
    EvaluateResult,
    ExportedArtifact,
    ExportResult,
    Level,
    Measured,
    MeasuredArtifact,
    PrepareResult,
    PublishResult,
    Recommendation,
    Release,
    TrainResult,
)
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import GateStatus
from tuneyard_api.registry import TUNED, subject_of
from tuneyard_trainer.gates import explain
from tuneyard_trainer.reports.model_card import render_model_card
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.stage_runner import StageProgram

MEASURED: Final = {"perplexity", *Measured.model_fields}


def run(context: StageContext) -> PublishResult:
    """Writes the model card and then release.json."""
    spec = context.spec
    trained = context.result_of(TrainResult) if spec.trains else None
    evaluated = context.result_of(EvaluateResult) if spec.evaluates else None
    exported = context.result_of(ExportResult).artifacts
    artifacts = measured(exported, evaluated.levels if evaluated else [], spec.merged_subject)
    release = Release(
        name=context.name,
        spec=spec,
        digests=context.digests,
        adapter=trained.adapter if trained else None,
        artifacts=artifacts,
        recommended=recommendation(spec, artifacts, evaluated),
        evaluation=evaluated,
        dataset=context.result_of(PrepareResult).dataset,
        training=trained.training if trained else None,
    )
    card = render_model_card(release).encode()
    context.store.write(context.uri("publish", "README.md"), card, "text/markdown; charset=utf-8")
    text = release.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode()
    context.store.write(context.uri("publish", RELEASE_FILE), text, "application/json")
    context.log.info("published %s, recommended: %s", context.uri("publish", RELEASE_FILE), release.recommended.format)
    return PublishResult.model_validate(dict(release))


def measured(
    artifacts: Sequence[ExportedArtifact], levels: Sequence[Level], merged: str = TUNED
) -> list[MeasuredArtifact]:
    """The artifacts with what evaluate has measured of them."""
    found = {level.subject: level.model_dump(include=MEASURED) for level in levels}
    return [
        MeasuredArtifact(**dict(artifact), **found.get(subject_of(artifact.format, merged), {}))
        for artifact in artifacts
    ]


def recommendation(
    spec: FineTuneJobSpec, artifacts: Sequence[MeasuredArtifact], evaluated: EvaluateResult | None
) -> Recommendation:
    """The artifact to serve. A job without GPUs leaves out what cannot be served on this machine's CPU."""
    on_cpu = spec.resources.gpus == 0
    missing = {artifact.format: cpu.missing_flag(artifact.format) for artifact in artifacts if on_cpu}
    unserved = {name: flag for name, flag in missing.items() if flag}
    served = [artifact for artifact in artifacts if artifact.format not in unserved]
    if not served:
        served, unserved = [*artifacts], {}
    merged, ladder = spec.merged_subject, spec.export.ladder
    found = recommend(served, evaluated.gates, merged, ladder) if evaluated else first(served)
    left_out = "".join(f"; {name} needs a CPU with {flag}" for name, flag in unserved.items())
    return Recommendation(format=found.format, reason=found.reason + left_out)


def first(artifacts: Sequence[MeasuredArtifact]) -> Recommendation:
    """The recommendation where there were no rows to measure with."""
    return Recommendation(
        format=artifacts[0].format, reason="the first of export.formats: nothing was measured, as the job has no rows"
    )


def recommend(
    artifacts: Sequence[MeasuredArtifact], gates: Sequence[GateStatus], merged: str = TUNED, ladder: str | None = None
) -> Recommendation:
    """The smallest artifact whose gates have passed; where no artifact passed, the one with the lowest perplexity.

    Args:
        merged: how gates name the merged model.
        ladder: of which the artifacts are the rungs, from the smallest on.
    """
    failed = {gate.subject: gate for gate in gates if not gate.passed}
    passed = [artifact for artifact in artifacts if subject_of(artifact.format, merged) not in failed]
    if TUNED in failed or not passed:
        chosen = min(artifacts, key=_perplexity_and_size)
        return Recommendation(
            format=chosen.format, reason=f"lowest perplexity ({_figure(chosen.perplexity)}), though a gate failed"
        )
    if ladder:
        return Recommendation(format=passed[0].format, reason=_why_rung(passed[0], artifacts, failed, ladder))
    chosen = min(passed, key=lambda artifact: (artifact.size_bytes, artifact.format))
    return Recommendation(format=chosen.format, reason=_why_smallest(chosen, len(passed), failed))


def _perplexity_and_size(artifact: MeasuredArtifact) -> tuple[float, int]:
    return float("inf") if artifact.perplexity is None else artifact.perplexity, artifact.size_bytes


def _why_smallest(chosen: MeasuredArtifact, passed: int, failed: Collection[str]) -> str:
    size = f"{chosen.size_bytes / 1e6:.0f} MB"
    skipped = f"; {', '.join(sorted(failed))} failed" if failed else ""
    if passed == 1:
        return f"the only artifact whose gates passed ({size}{skipped})"
    figures = f"{size}, perplexity {_figure(chosen.perplexity)}{skipped}"
    return f"smallest of {passed} artifacts whose gates passed ({figures})"


def _why_rung(
    chosen: MeasuredArtifact, rungs: Sequence[MeasuredArtifact], failed: Mapping[str, GateStatus], ladder: str
) -> str:
    names = ", ".join(artifact.format for artifact in rungs)
    below = [failed[rung.format] for rung in rungs[: rungs.index(chosen)]]
    told = "".join(f"; {explain(gate)}" for gate in below)
    return (
        f"{ladder}: the first of {names} whose gates passed ({chosen.size_bytes / 1e6:.0f} MB, perplexity "
        f"{_figure(chosen.perplexity)}{told})"
    )


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


PROGRAM: Final = StageProgram(run)
