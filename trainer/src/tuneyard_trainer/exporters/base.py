"""What an artifact format is.

The name of a format and the engines that load it are its line in tuneyard_api.registry.ARTIFACT_FORMATS; everything
else is the FORMAT of its module, exporters/formats/<name>.py.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tuneyard_api.contracts.requests import ScoreOutcome
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.worker import Program


class ExportJob(NamedTuple):
    """One format to write."""

    context: StageContext
    format: str
    formats: Sequence[str]
    """All formats that are written, this one among them."""
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
    on_fidelity: Callable[[Fidelity], None]
    """Called with how far the artifact's logits are from the merged model's."""


def fits(shape: ModelShape) -> None:
    """The misfit of a format that fits every model."""
    return


class Recipe(NamedTuple):
    """How llmcompressor makes a format."""

    modifiers: list[Any]
    """llmcompressor's modifiers; none where only the type of the weights changes."""
    nearest: list[Any] | None = None
    """The modifiers of plain rounding to the same width, which calibration must not be worse than; None: there is no
    calibration."""
    dtype: str | None = None
    """The type that torch calls so, for all floating-point weights; None: bfloat16, as the merged model."""


class ArtifactFormat(NamedTuple):
    """How an artifact is made and measured."""

    export: Callable[[ExportJob], None]
    """Writes the artifact; raises StageError."""
    scorer: Program[ScoreOutcome]
    """The worker that measures it: see tuneyard_trainer.metrics."""
    misfit: Callable[[ModelShape], str | None] = fits
    """Why the format does not fit a model; None where it does."""
    recipe: Callable[[ModelShape, Sequence[str]], Recipe] | None = None
    """For the formats that llmcompressor writes: the recipe for a model whose modules of these names are not quantized;
    called in the worker."""
