"""Waits for a FineTuneJob to end, and shows its progress."""

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


def wait_for_end(read: Callable[[], Json], seconds: float, show: Show, pause: float = PAUSE_SECONDS) -> Json:
    """Returns the job once it has ended.

    Raises TimeoutError after `seconds`, and what `read` raises at first. Later an API server that does not answer is
    asked again. `show` is called with the job and a remark, which may be empty.
    """
    deadline = time.monotonic() + seconds
    job = read()
    while not has_ended(job):
        if time.monotonic() >= deadline:
            raise TimeoutError
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        try:
            job = read()
            show(job, "")
        except Unavailable as error:
            show(job, f"retrying: {error}")
        except NotFound as error:
            raise NotFound("it was deleted") from error
    return job


@contextmanager
def shown_on(console: Console) -> Iterator[Show]:
    """Shows the job in place on a terminal, and elsewhere one line for each change."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda job, remark: live.update(
            Group(render_job(job, datetime.now(UTC)), Text(remark, "yellow")), refresh=True
        )


class Lines:
    """Prints phase and stage of the job when they have changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __call__(self, job: Json, remark: str) -> None:
        line = remark or phase_and_stage(job)
        if line != self._last:
            self._console.print(f"{datetime.now(UTC):%H:%M:%SZ} {line}")
        self._last = line


def phase_and_stage(job: Json) -> str:
    """Phase and stage, without the progress, which changes all the time."""
    phase = status(job).get("phase", "Pending")
    stage = current_stage(job)
    if stage is None:
        return str(phase)
    return ": ".join(filter(None, (f"{phase}, {stage['name']} is {stage['state']}", stage.get("message"))))
