"""What an artifact format is.

The name of a format and the engines that load it are its line in tuneyard_api.registry.ARTIFACT_FORMATS; everything
else is the FORMAT of its module, exporters/formats/<name>.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tuneyard_api.contracts.requests import ScoreOutcome
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.worker import Program


class ExportJob(NamedTuple):
    """One format to write."""

    context: StageContext
    format: str
    merged: Path
    """Directory of the merged model, which is written first: the other formats are made of it."""
    output: Path
    """An empty directory for the artifact."""
    shared: Path
    """A directory for what several formats are made of; empty before the first format."""
    on_progress: Callable[[float, str], None]
    """Called with the share that is done, from 0 to 1, and what is being done."""
    on_note: Callable[[str], None]
    """Called with what people should know of the artifact; the model card has it."""


def fits(shape: ModelShape) -> None:
    """The misfit of a format that fits every model."""
    return


class ArtifactFormat(NamedTuple):
    """How an artifact is made and measured."""

    export: Callable[[ExportJob], None]
    """Writes the artifact; raises StageError."""
    scorer: Program[ScoreOutcome]
    """The worker that measures it: see tuneyard_trainer.metrics."""
    misfit: Callable[[ModelShape], str | None] = fits
    """Why the format does not fit a model; None where it does."""
    recipe: Callable[[ModelShape], list[Any]] | None = None
    """llmcompressor's modifiers, for the formats that it writes; called in the worker."""
