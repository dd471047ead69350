"""What the server needs to know about an engine. Each module of this package exposes an Engine as ENGINE."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from tuneyard_api import reasons
from tuneyard_api.base import Model
from tuneyard_api.contracts.serving import EngineRequest, Speculation

Options = TypeVar("Options", bound=Model)


class Route(NamedTuple):
    """An HTTP route of the engine that the proxy lets through."""

    path: str
    method: str
    not_every_model: bool = False
    """The engine answers 404 where its model has no such route, which the proxy explains."""


class Command(NamedTuple):
    """How to start an engine."""

    argv: list[str]
    environment: dict[str, str]


class Cause(NamedTuple):
    """Why an engine ended, or cannot start."""

    message: str
    reason: str = reasons.ENGINE_CRASHED
    advice: str = "See the engine's log."


def with_remedy(message: str, remedies: Iterable[tuple[re.Pattern[str], str, str]]) -> Cause:
    """The cause with the reason and the advice of the first pattern that is found in its message."""
    for pattern, reason, advice in remedies:
        if pattern.search(message):
            return Cause(message, reason, advice)
    return Cause(message)


class Work(NamedTuple):
    """What an engine is doing, by its metrics."""

    requests: int
    """Requests that run or wait."""
    steps: float
    """Counts up while the engine computes: it hangs when it has requests and this stands still."""


class Engine(NamedTuple, Generic[Options]):
    """A program that serves a model over the OpenAI API, with /health and /metrics."""

    options: type[Options]
    """The model of spec.<engine> of a ModelServer."""
    command: Callable[[EngineRequest, Options, Path], Command]
    """The program that serves the request on the unix socket at the path."""
    routes: tuple[Route, ...]
    """All that clients can reach: the proxy answers every other path with 404."""
    explain: Callable[[Iterable[str]], Cause]
    """The cause of a crash, found in the last lines of the engine's log."""
    work: Callable[[str], Work | None]
    """What the engine does, read from its /metrics; None where they do not say."""
    speculation: Callable[[str], Speculation | None] = lambda metrics: None
    """How its speculative decoding goes, read from its /metrics; None where it guesses nothing."""
    check: Callable[[EngineRequest, Options], Cause | None] = lambda request, options: None
    """What is wrong with the options, found before the engine's container starts. It may take seconds."""
    before_start: Callable[[], None] = lambda: None
    """Runs in the engine's container before the program."""
