"""The engines: a name of tuneyard_api.registry.ENGINES is implemented by the module of that name in this package."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.registry import ENGINES, module_name
from tuneyard_server.engines.base import Cause, Command, Engine


def load_engine(name: str) -> Engine[Any]:
    """The engine of that name. Raises ValueError when the registry has no such engine."""
    if name not in ENGINES:
        raise ValueError(f"There is no engine '{name}'. This server has {', '.join(sorted(ENGINES))}.")
    engine: Engine[Any] = import_module(f"{__name__}.{module_name(name)}").ENGINE
    return engine


def engine_command(request: EngineRequest, socket: Path) -> Command:
    """The program that serves a request on a unix socket.

    Raises:
        ValueError: the engine is unknown, or its options are not valid.
    """
    engine = load_engine(request.engine)
    command: Command = engine.command(request, engine.options.model_validate(request.options), socket)
    return command


def options_check(request: EngineRequest) -> Callable[[], Cause | None]:
    """A function that finds what is wrong with the options of a request, and may take seconds.

    Raises:
        ValueError: the engine is unknown, or its options do not fit the model of spec.<engine>.
    """
    engine = load_engine(request.engine)
    return partial(engine.check, request, engine.options.model_validate(request.options))
