"""bf16: the merged model in full precision, of which all other formats are made."""

from typing import Final

from tuneyard_trainer.exporters.base import ArtifactFormat
from tuneyard_trainer.exporters.merge import merge
from tuneyard_trainer.metrics.scorers import TRANSFORMERS

FORMAT: Final = ArtifactFormat(export=merge, scorer=TRANSFORMERS)
