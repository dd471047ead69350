"""What the operator asks of the server's engine container: to serve, as one JSON argument, and how guessing goes."""

from pathlib import Path
from typing import Any

from pydantic import Field

from tuneyard_api.contracts.base import Contract


class EngineRequest(Contract):
    """Serve a model directory with an engine."""

    engine: str = Field(description="A name of registry.ENGINES.")
    model: Path
    served_name: str = Field(description="The model's name in the OpenAI API.")
    gpus: int = Field(default=0, description="GPUs of the pod; 0: the engine runs on the CPU.")
    threads: int | None = Field(default=None, description="CPU threads that the container's limit lets run at once.")
    options: dict[str, Any] = Field(default={}, description="spec.<engine> of the ModelServer, in its JSON form.")


class Speculation(Contract):
    """GET /speculation of the engine's supervisor: how speculative decoding has gone since the engine's start."""

    drafted: int = Field(description="Tokens that were guessed.")
    accepted: int = Field(description="Of these, those that the model has verified.")
