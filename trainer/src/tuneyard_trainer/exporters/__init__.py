"""Exporters write the artifacts of a trained model: one module in formats/ for each artifact format."""

from importlib import import_module
from pathlib import Path

from tuneyard_api import reasons
from tuneyard_api.kinds.export import Export
from tuneyard_api.registry import module_name
from tuneyard_trainer.exporters.base import ArtifactFormat
from tuneyard_trainer.model.layout import weight_files
from tuneyard_trainer.model.shape import ModelShape, local_shape
from tuneyard_trainer.runtime.errors import BadInput


def format_of(name: str) -> ArtifactFormat:
    """The artifact format of a name of tuneyard_api.registry.ARTIFACT_FORMATS."""
    artifact_format: ArtifactFormat = import_module(f"{__name__}.formats.{module_name(name)}").FORMAT
    return artifact_format


def check_formats(export: Export, shape: ModelShape, model_uri: str) -> None:
    """Checks that the formats fit a model; of a ladder at least one has to.

    Raises:
        BadInput: names the first format that does not fit, and why.
    """
    misfits = {name: reason for name in export.levels if (reason := format_of(name).misfit(shape))}
    if not misfits or (export.ladder and len(misfits) < len(export.levels)):
        return
    (name, reason), *_ = misfits.items()
    raise BadInput(
        reasons.FORMAT_DOES_NOT_FIT,
        f"{reason} ({model_uri})",
        f"Remove {export.ladder or name} from export.formats, or tune another model.",
    )


def fitting_rungs(export: Export, model: Path) -> list[str]:
    """The formats of a ladder that fit the merged model: at least one, as prepare has found."""
    shape = local_shape(model, weight_files(model))
    return [name for name in export.levels if format_of(name).misfit(shape) is None]
