"""The export stage: writes and publishes an artifact for each format.

The merged model is always made and published, because the other formats are made of it and evaluate measures it; it is
listed as an artifact when spec.export has it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tuneyard_api.contracts.results import ExportedArtifact, ExportResult
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_api.registry import MERGED_FORMAT
from tuneyard_store.artifact import publish_directory
from tuneyard_trainer.exporters import fitting_rungs, format_of
from tuneyard_trainer.exporters.base import ExportJob
from tuneyard_trainer.model.layout import fresh
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.stage_runner import StageProgram


def run(context: StageContext) -> ExportResult:
    """Publishes each format as an artifact.

    Raises:
        BadInput: the adapter does not fit the base model's files, or an artifact does not compute what the merged model
            does.
        TryAgain: the pod was stopped.
        ArtifactCorrupt: the adapter differs from its manifest.
    """
    export, merged = context.spec.export, context.work / MERGED_FORMAT
    shutil.rmtree(context.work / "shared", ignore_errors=True)
    others = [name for name in export.levels if name != MERGED_FORMAT]
    artifacts = {MERGED_FORMAT: write(context, MERGED_FORMAT, [MERGED_FORMAT], Share(context, 0, 1 + len(others)))}
    formats = fitting_rungs(export, merged) if export.ladder else export.levels
    for number, name in enumerate(others, start=1):
        if name in formats:
            artifacts[name] = write(context, name, formats, Share(context, number, 1 + len(others)))
        else:
            context.log.info("%s leaves out %s, which does not fit the model", export.ladder, name)
    return ExportResult(artifacts=[artifacts[name] for name in formats], merged=artifacts[MERGED_FORMAT])


class Share:
    """The part of the stage's progress that one of several formats takes."""

    def __init__(self, context: StageContext, number: int, formats: int) -> None:
        self._context, self._number, self._formats = context, number, formats

    def __call__(self, done: float, message: str) -> None:
        percent = 100 * (self._number + done) / self._formats
        self._context.progress.update(percent=int(percent), message=message)


def write(context: StageContext, name: str, formats: Sequence[str], progress: Share) -> ExportedArtifact:
    """Makes and publishes one artifact; the files of the merged model stay, as the others are made of it."""
    merged, output = context.work / MERGED_FORMAT, fresh(context.work / name)
    shared = context.work / "shared"
    shared.mkdir(exist_ok=True)
    notes: list[str] = []
    compared: list[Fidelity] = []
    format_of(name).export(
        ExportJob(context, name, formats, merged, output, shared, progress, notes.append, compared.append)
    )
    for note in notes:
        context.log.info("%s: %s", name, note)
    found = {"notes": notes, "fidelity": compared[0] if compared else None}
    artifact = publish(context, output, name).model_copy(update=found)
    if output != merged:
        shutil.rmtree(output)
    return artifact


def publish(context: StageContext, directory: Path, name: str) -> ExportedArtifact:
    """Uploads one artifact."""
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes 0600
    uri = context.uri("export", name)
    manifest = publish_directory(context.store, directory, uri, name)
    context.log.info("published %s: %s, %.1f MB", name, uri, manifest.size_bytes / 1e6)
    return ExportedArtifact(format=name, uri=uri, digest=manifest.digest, size_bytes=manifest.size_bytes)


PROGRAM: Final = StageProgram(run)
