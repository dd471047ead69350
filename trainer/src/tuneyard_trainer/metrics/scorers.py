"""The programs that measure models: each answers a ScoreRequest with a ScoreOutcome."""

from typing import Final

from tuneyard_api import names
from tuneyard_api.contracts.requests import ScoreOutcome
from tuneyard_trainer.runtime.worker import Program

# It runs in the quantizer's environment, whose transformers reads the formats that llmcompressor writes.
TRANSFORMERS: Final = Program(
    "tuneyard_trainer.metrics.score_worker", ScoreOutcome, names.ENV_QUANTIZER_PYTHON, reuses_memory=True
)
# llama.cpp itself, for GGUF.
LLAMACPP: Final = Program("tuneyard_trainer.metrics.llamacpp_worker", ScoreOutcome)
