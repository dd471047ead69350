"""A profile of a program by py-spy. `python -m bench.profile FILE` prints the functions that take the most time."""

import argparse
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.figures import table
from bench.processes import Program

RATE: Final = 50  # samples per second; each pauses the program for a moment
TOP: Final = 10
SCAFFOLD: Final = (
    *("asyncio/", "threading.py", "concurrent/", "selectors.py", "<module>"),
    *("tuneyard_operator/__main__.py", "tuneyard_operator/main.py", "tuneyard_operator/process.py"),
)


@contextmanager
def recorded(program: Program, path: Path | None) -> Iterator[None]:
    """Writes samples of the program during the block to `path`; None takes no samples."""
    if path is None:
        yield
        return
    command = ["py-spy", "record", "--gil", "--format=raw", f"--rate={RATE}", "--duration=unlimited"]
    with subprocess.Popen([*command, f"--pid={program.process.pid}", f"--output={path}"]) as spy:
        try:
            yield
        finally:
            spy.send_signal(signal.SIGINT)


def top(path: Path) -> str:
    """Two tables: the share of samples in which a function itself was running, and in which it was on the stack."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in {frame for frame in frames if not any(part in frame for part in SCAFFOLD)}:
            within[frame] += int(count)
    return f"{_table('itself', own, own.total())}\n\n{_table('with its callees', within, own.total())}"


def _function(frame: str) -> str:
    """A frame without the line number: `plan (tuneyard_operator/finetunejob/plan.py)`."""
    return frame.rpartition(":")[0] + ")" if ":" in frame else frame


def _table(title: str, counted: Counter[str], total: int) -> str:
    rows = [[name, f"{count / total:.1%}"] for name, count in counted.most_common(TOP)]
    return table([["function", title], *rows])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("file", type=Path, help="py-spy's raw samples, as bench.scale --profile writes them")
    print(top(parser.parse_args().file))


if __name__ == "__main__":
    main()
