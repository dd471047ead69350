"""The publish stage: sums up the results of the other stages, recommends an artifact, and writes the release."""

from collections.abc import Sequence
from typing import Final

from tuneyard_api.contracts.results import (
    RELEASE_FILE,
    ArtifactRef,
    EvaluateResult,
    ExportedArtifact,
    ExportResult,
    MeasuredArtifact,
    PrepareResult,
    PublishResult,
    Recommendation,
    Release,
    TrainResult,
)
from tuneyard_api.kinds.finetunejob_status import GateStatus, Measurement
from tuneyard_api.registry import TUNED, subject_of
from tuneyard_trainer.reports.model_card import render_model_card
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.stage_runner import StageProgram


def run(context: StageContext) -> PublishResult:
    """Writes the model card and then release.json."""
    trained, evaluated = context.result_of(TrainResult), context.result_of(EvaluateResult)
    artifacts = with_perplexity(context.result_of(ExportResult).artifacts, evaluated.measurements)
    release = Release(
        name=context.name,
        spec=context.spec,
        digests=context.digests,
        adapter=ArtifactRef(uri=trained.adapter_uri, digest=trained.adapter_digest),
        artifacts=artifacts,
        recommended=recommend(artifacts, evaluated.gates),
        evaluation=evaluated,
        dataset=context.result_of(PrepareResult).dataset,
        training=trained.training,
    )
    card = render_model_card(release).encode()
    context.store.write(context.uri("publish", "README.md"), card, "text/markdown; charset=utf-8")
    text = release.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode()
    context.store.write(context.uri("publish", RELEASE_FILE), text, "application/json")
    context.log.info("published %s, recommended: %s", context.uri("publish", RELEASE_FILE), release.recommended.format)
    return PublishResult.model_validate(dict(release))


def with_perplexity(
    artifacts: Sequence[ExportedArtifact], measurements: Sequence[Measurement]
) -> list[MeasuredArtifact]:
    perplexity = {item.subject: item.value for item in measurements if item.metric == "perplexity"}
    return [
        MeasuredArtifact(**dict(artifact), perplexity=perplexity.get(subject_of(artifact.format)))
        for artifact in artifacts
    ]


def recommend(artifacts: Sequence[MeasuredArtifact], gates: Sequence[GateStatus]) -> Recommendation:
    """The smallest artifact whose gates have passed; where no artifact passed, the one with the lowest perplexity."""
    failed = {gate.subject for gate in gates if not gate.passed}
    passed = [artifact for artifact in artifacts if subject_of(artifact.format) not in failed]
    if TUNED in failed or not passed:
        chosen = min(artifacts, key=_perplexity_and_size)
        return Recommendation(
            format=chosen.format, reason=f"lowest perplexity ({_figure(chosen.perplexity)}), though a gate failed"
        )
    chosen = min(passed, key=lambda artifact: (artifact.size_bytes, artifact.format))
    return Recommendation(format=chosen.format, reason=_why_smallest(chosen, len(passed), failed))


def _perplexity_and_size(artifact: MeasuredArtifact) -> tuple[float, int]:
    return float("inf") if artifact.perplexity is None else artifact.perplexity, artifact.size_bytes


def _why_smallest(chosen: MeasuredArtifact, passed: int, failed: set[str]) -> str:
    size = f"{chosen.size_bytes / 1e6:.0f} MB"
    skipped = f"; {', '.join(sorted(failed))} failed" if failed else ""
    if passed == 1:
        return f"the only artifact whose gates passed ({size}{skipped})"
    figures = f"{size}, perplexity {_figure(chosen.perplexity)}{skipped}"
    return f"smallest of {passed} artifacts whose gates passed ({figures})"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


PROGRAM: Final = StageProgram(run)
