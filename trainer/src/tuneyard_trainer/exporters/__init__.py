"""Exporters write the artifacts of a trained model: one module in formats/ for each artifact format."""

from collections.abc import Iterable
from importlib import import_module

from tuneyard_api import reasons
from tuneyard_api.registry import module_name
from tuneyard_trainer.exporters.base import ArtifactFormat
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.errors import BadInput


def format_of(name: str) -> ArtifactFormat:
    """The artifact format of a name of tuneyard_api.registry.ARTIFACT_FORMATS."""
    artifact_format: ArtifactFormat = import_module(f"{__name__}.formats.{module_name(name)}").FORMAT
    return artifact_format


def check_formats(formats: Iterable[str], shape: ModelShape, model_uri: str) -> None:
    """Checks that the formats fit a model.

    Raises:
        BadInput: names the first format that does not fit, and why.
    """
    for name in formats:
        if reason := format_of(name).misfit(shape):
            raise BadInput(
                reasons.FORMAT_DOES_NOT_FIT,
                f"{reason} ({model_uri})",
                f"Remove {name} from export.formats, or tune another model.",
            )
