"""The supervisor with real child processes in the engine's place."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Start = Callable[..., subprocess.Popen[str]]

SUPERVISE = """
import sys
from pathlib import Path
from tuneyard_server.engines.base import Command
from tuneyard_server.engines.vllm import explain
from tuneyard_server.supervisor import supervise
program, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
command = Command([sys.executable, "-c", program], {"FROM_COMMAND": "1"})
sys.exit(supervise(command, explain, folder / "engine.sock", folder / "drained", seconds))
"""
# Serves until SIGTERM, as an engine does, and prints a line when it ends.
SERVING = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print("engine ends", flush=True), sys.exit(0)))
print("engine serves", flush=True)
while True: signal.pause()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def begin(program: str, drain_seconds: float = 60) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, program, str(tmp_path), str(drain_seconds)],
            env=os.environ | {"TUNEYARD_TERMINATION_LOG": str(tmp_path / "termination")},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    (tmp_path / "drained").touch()
    for process in processes:
        process.terminate()
        process.communicate(timeout=20)


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_engine_stops_after_the_proxy_has_drained(start: Start, tmp_path: Path) -> None:
    process = start(SERVING)
    assert next_line(process) == "engine serves"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    (tmp_path / "drained").touch()
    assert next_line(process) == "engine ends"
    assert process.wait(timeout=10) == 0
    assert not (tmp_path / "termination").exists(), "it was asked to stop"


def test_engine_stops_at_the_drain_deadline(start: Start) -> None:
    process = start(SERVING, drain_seconds=0.5)
    assert next_line(process) == "engine serves"
    process.send_signal(signal.SIGTERM)
    assert next_line(process) == "engine ends"
    assert process.wait(timeout=10) == 0


def test_crash_is_explained(start: Start, tmp_path: Path) -> None:
    process = start("import sys; print('ValueError: no such model', flush=True); sys.exit(3)")
    assert next_line(process) == "ValueError: no such model"
    assert process.wait(timeout=10) == 3
    termination = json.loads((tmp_path / "termination").read_text())
    assert termination["reason"] == "EngineCrashed"
    assert termination["message"] == "The engine exited with 3: ValueError: no such model"


def test_killed_engine_is_a_failure(start: Start, tmp_path: Path) -> None:
    process = start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert process.wait(timeout=10) == 1
    assert "-9" in json.loads((tmp_path / "termination").read_text())["message"]


def test_stale_socket_is_removed(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists(), "a socket's file outlives its process"
    process = start(f"import socket; socket.socket(socket.AF_UNIX).bind({str(path)!r}); print('bound', flush=True)")
    assert next_line(process) == "bound"


def test_environment_is_merged(start: Start) -> None:
    process = start("import os; print(os.environ['FROM_COMMAND'], 'PATH' in os.environ, flush=True)")
    assert next_line(process) == "1 True"
