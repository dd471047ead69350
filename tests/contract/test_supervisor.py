"""The supervisor with real child processes in the engine's place."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from demo.kubectl import wait_until

Start = Callable[..., subprocess.Popen[str]]

SUPERVISE = """
import sys
from pathlib import Path
from tuneyard_server import supervisor
from tuneyard_server.engines.base import Command
from tuneyard_server.engines.vllm import ENGINE
from tuneyard_server.watchdog import Limits
program, folder, drain, port, begin = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
supervisor.WATCH_SECONDS = 0.2
command = Command([sys.executable, "-c", program], {"FROM_COMMAND": "1", "SOCKET": str(folder / "engine.sock")})
shutdown = supervisor.Shutdown(folder / "drained", drain, stop_seconds=2)
limits = Limits(start=float(begin), silence=2, standstill=2)
engine = supervisor.Supervisor(command, ENGINE, folder / "engine.sock", shutdown, limits)
sys.exit(engine.run(port or None))
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

    def begin(program: str, drain: float = 60, port: int = 0, begin: float = 60) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, program, str(tmp_path), str(drain), str(port), str(begin)],
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
        process.communicate(timeout=60)


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


# Answers /health and /metrics on its socket. With HANG=health it stops answering after the first time; with HANG=steps
# it has a request on which it never computes.
ANSWERING = """
import os, socket, time
metrics = "vllm:num_requests_running{} 1\\nvllm:iteration_tokens_total_count{} %d\\n"
server = socket.socket(socket.AF_UNIX)
server.bind(os.environ["SOCKET"])
server.listen()
print("engine serves", flush=True)
steps = 0
while True:
    connection, _ = server.accept()
    asked = connection.recv(4096)
    if hang == "health" and steps:
        time.sleep(60)
    steps += 1
    body = (metrics % (0 if hang == "steps" else steps)).encode()
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + body)
    connection.close()
"""
# Ignores SIGTERM, and has started a process that does too and holds the pipe of its log.
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"])
print(f"child {child.pid}", flush=True)
while True: signal.pause()
"""


def termination(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "termination").read_text())
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists. A killed one needs a moment to end, which its supervisor does not wait for."""
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().split()[2] != "Z"


def test_engine_stops_after_the_proxy_has_drained(start: Start, tmp_path: Path) -> None:
    process = start(SERVING)
    assert next_line(process) == "engine serves"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    (tmp_path / "drained").touch()
    assert next_line(process) == "engine ends"
    assert process.wait(timeout=60) == 0
    assert not (tmp_path / "termination").exists(), "it was asked to stop"


def test_engine_stops_at_the_drain_deadline(start: Start) -> None:
    process = start(SERVING, drain=0.5)
    assert next_line(process) == "engine serves"
    process.send_signal(signal.SIGTERM)
    assert next_line(process) == "engine ends"
    assert process.wait(timeout=60) == 0


def test_crash_is_explained(start: Start, tmp_path: Path) -> None:
    process = start("import sys; print('ValueError: no such model', flush=True); sys.exit(3)")
    assert next_line(process) == "ValueError: no such model"
    assert process.wait(timeout=60) == 3
    termination = json.loads((tmp_path / "termination").read_text())
    assert termination["reason"] == "EngineCrashed"
    assert termination["message"] == "The engine exited with 3: ValueError: no such model"


def test_killed_engine_is_a_failure(start: Start, tmp_path: Path) -> None:
    process = start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert process.wait(timeout=60) == 1
    assert "was killed by SIGKILL" in json.loads((tmp_path / "termination").read_text())["message"]


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


def test_engine_that_does_not_stop_is_killed_with_all_its_processes(start: Start, tmp_path: Path) -> None:
    (tmp_path / "drained").touch()
    process = start(STUBBORN)
    child = int(next_line(process).split()[1])
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    wait_until(lambda: not is_running(child), "the child is gone", 10, every=0.1)


def test_processes_of_a_crashed_engine_do_not_stay(start: Start) -> None:
    """A child that holds the pipe of the log would keep the container from ending."""
    process = start(STUBBORN.replace("while True: signal.pause()", "sys.exit(4)"))
    child = int(next_line(process).split()[1])
    assert process.wait(timeout=60) == 4
    wait_until(lambda: not is_running(child), "the child is gone", 10, every=0.1)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import time; time.sleep(60)", "did not start to answer within 3 s"),
        (f"hang = 'health'\n{ANSWERING}", "did not answer /health for 2 s"),
        (f"hang = 'steps'\n{ANSWERING}", "has 1 request(s) and has computed nothing for 2 s"),
    ],
    ids=["never answers", "stops answering", "stops computing"],
)
def test_engine_that_hangs_is_killed(start: Start, tmp_path: Path, program: str, says: str) -> None:
    process = start(program, begin=3 if "within 3 s" in says else 60)
    assert process.wait(timeout=90) == 1
    assert termination(tmp_path)["reason"] == "EngineHung"
    assert says in termination(tmp_path)["message"]


def test_engine_that_works_is_left_alone(start: Start) -> None:
    process = start(f"hang = ''\n{ANSWERING}")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=6)


def test_kubelet_is_told_whether_the_engine_has_started(start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(f"hang = ''\nimport time; time.sleep(2)\n{ANSWERING}", port=port)
    wait_until(lambda: probe(port, "/livez") == 200, "the supervisor answers", 60, every=0.1)
    assert probe(port, "/startupz") == 503
    assert probe(port, "/else") == 404
    assert next_line(process) == "engine serves"
    wait_until(lambda: probe(port, "/startupz") == 200, "the engine has answered", 60, every=0.1)


def probe(port: int, path: str) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}").status_code
    except httpx.TransportError:
        return 0
