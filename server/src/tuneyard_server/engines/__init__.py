"""The engines: a new one is one file here and one line in ENGINES."""

from collections.abc import Callable
from typing import Final

from tuneyard_server.engines import vllm
from tuneyard_server.engines.base import Command, EngineOptions

ENGINES: Final[dict[str, Callable[[EngineOptions], Command]]] = {"vllm": vllm.command}
