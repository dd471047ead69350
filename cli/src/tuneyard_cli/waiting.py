"""Waits for a FineTuneJob to end, or for a ModelServer to serve, and shows the progress."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tuneyard_cli.kubectl import NotFound, Unavailable
from tuneyard_cli.objects import Json
from tuneyard_cli.view import line, render, succeeded

PAUSE_SECONDS: Final = 2.0
Show = Callable[[Json, str], None]


def wait_for_end(read: Callable[[], Json], seconds: float, show: Show, pause: float = PAUSE_SECONDS) -> Json:
    """Returns the object once it is decided whether it has succeeded.

    Raises TimeoutError after `seconds`, and what `read` raises at first. Later an API server that does not answer is
    asked again. `show` is called with the object and a remark, which may be empty.
    """
    deadline = time.monotonic() + seconds
    obj = read()
    while succeeded(obj) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        try:
            obj = read()
            show(obj, "")
        except Unavailable as error:
            show(obj, f"retrying: {error}")
        except NotFound as error:
            raise NotFound("it was deleted") from error
    return obj


@contextmanager
def shown_on(console: Console) -> Iterator[Show]:
    """Shows the object in place on a terminal, and elsewhere one line for each change."""
    if not console.is_terminal:
        yield Changes(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda obj, remark: live.update(
            Group(render(obj, datetime.now(UTC)), Text(remark, "yellow")), refresh=True
        )


class Changes:
    """Prints what the object does when it has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __call__(self, obj: Json, remark: str) -> None:
        shown = remark or line(obj)
        if shown != self._last:
            self._console.print(f"{datetime.now(UTC):%H:%M:%SZ} {shown}")
        self._last = shown
