"""The engines: a new one is one file here and one line in ENGINES."""

from collections.abc import Callable
from typing import Final, NamedTuple

from tuneyard_api.kinds.modelserver import ModelServerSpec
from tuneyard_operator.modelserver.engines import vllm


class EngineSettings(NamedTuple):
    """What the engine's container gets beyond model and name."""

    arguments: list[str]
    environment: dict[str, str]


def _vllm(spec: ModelServerSpec) -> EngineSettings:
    return EngineSettings(vllm.arguments(spec), vllm.environment(spec))


ENGINES: Final[dict[str, Callable[[ModelServerSpec], EngineSettings]]] = {"vllm": _vllm}
