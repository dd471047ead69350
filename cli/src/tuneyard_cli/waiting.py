"""Waits for a FineTuneJob to end, and shows how far it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tuneyard_cli.job import render_job
from tuneyard_cli.kubectl import NotFound, Unavailable
from tuneyard_cli.objects import Json, current_stage, has_ended, status

PAUSE_SECONDS: Final = 2.0
Show = Callable[[Json, str], None]


def wait_for_end(look: Callable[[], Json], seconds: float, show: Show, pause: float = PAUSE_SECONDS) -> Json:
    """The job, once it has ended.

    Raises TimeoutError when that has taken longer than `seconds`, and what `look` raises; but when the API server is
    away after it was there, it is asked again. `show` is given the job and what there is to say besides.
    """
    deadline = time.monotonic() + seconds
    job = look()
    while not has_ended(job):
        if time.monotonic() >= deadline:
            raise TimeoutError
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        try:
            job = look()
            show(job, "")
        except Unavailable as error:
            show(job, f"asks again: {error}")
        except NotFound as error:
            raise NotFound("it was deleted") from error
    return job


@contextmanager
def shown_on(console: Console) -> Iterator[Show]:
    """Progress: in place on a terminal, a line for each change elsewhere."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda job, remark: live.update(
            Group(render_job(job, datetime.now(UTC)), Text(remark, "yellow")), refresh=True
        )


class Lines:
    """Prints where the job is, when that has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __call__(self, job: Json, remark: str) -> None:
        line = remark or where(job)
        if line != self._last:
            self._console.print(f"{datetime.now(UTC):%H:%M:%SZ} {line}")
        self._last = line


def where(job: Json) -> str:
    """Phase and stage, without what changes all the time."""
    phase = status(job).get("phase", "Pending")
    stage = current_stage(job)
    if stage is None:
        return str(phase)
    return ": ".join(filter(None, (f"{phase}, {stage['name']} is {stage['state']}", stage.get("message"))))
