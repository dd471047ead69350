"""The kinds of the API: one file and one line each. CRDs, the chart's copy and docs/api.md are generated from them."""

from typing import Final

from tuneyard_api.kind import Kind
from tuneyard_api.kinds.finetunejob import FINE_TUNE_JOB
from tuneyard_api.kinds.modelserver import MODEL_SERVER

KINDS: Final[tuple[Kind, ...]] = (FINE_TUNE_JOB, MODEL_SERVER)
