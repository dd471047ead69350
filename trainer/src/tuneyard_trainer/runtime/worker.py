"""Heavy work runs in a process of its own, which gets no credentials for the store; a stage never imports torch.

See worker_main.py for the worker's side and for how the two talk.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from tuneyard_api import reasons
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.requests import (
    WORKER_EVENT,
    CheckpointWritten,
    ItemsDone,
    MetricsLogged,
    TrainingProgress,
    WorkerFailed,
    WorkerRequest,
    WorkerResult,
)
from tuneyard_api.names import ENV_ALLOCATOR
from tuneyard_trainer.runtime.cgroup import oom_kills
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, StageError, TryAgain, preempted
from tuneyard_trainer.runtime.rendezvous import RESTART_ADVICE, SINGLE_NODE, Group, Rendezvous
from tuneyard_trainer.runtime.worker_main import RECORD

ProgressEvent = TrainingProgress | MetricsLogged | CheckpointWritten | ItemsDone
EventHandler = Callable[[ProgressEvent], None]
Outcome = TypeVar("Outcome", bound=Contract)

FAILURES: Final[dict[str, type[StageError]]] = {
    kind.__name__: kind for kind in (StageError, BadInput, DoesNotFit, TryAgain)
}
CREDENTIALS: Final = ("AWS_", "MLFLOW_")
"""Variables of which no worker needs to know."""
START: Final = "tuneyard_trainer.runtime.worker_start"
NEVER_COMPILE: Final = {"TORCHDYNAMO_DISABLE": "1"}
KILL_AFTER_SECONDS: Final = 20
LAST_LINES: Final = 100  # torchrun writes many lines after the cause
RENDEZVOUS_SECONDS: Final = 3600  # one node may need that much longer to download the model than another
# What a process writes that NCCL or Gloo aborts because another node is gone. (With Gloo most report it themselves.)
PEER_GONE: Final = re.compile("ncclRemoteError|gloo::IoException")
# What torchrun writes of a process that a signal ended; SIGTERM it has sent itself.
DIED: Final = re.compile(r"Signal (?!15\b)(?P<signal>\d+) \(SIG\w+\) received by PID (?P<pid>\d+)")


@dataclass(frozen=True)
class Program(Generic[Outcome]):
    """A Python module that does heavy work."""

    module: str
    outcome: type[Outcome]
    """What it answers."""
    python_env: str | None = None
    """The environment variable that names its interpreter; None: the stage's own."""
    compiles: bool = False
    """Whether it uses torch.compile. Otherwise its compiler, which other libraries ask for, is not imported."""
    reuses_memory: bool = False
    """Whether it makes and frees tensors for long. The C library's malloc leaves holes between them."""

    def command(self, request_file: Path, processes: int = 1, group: Group = SINGLE_NODE) -> list[str]:
        python = os.environ.get(self.python_env, sys.executable) if self.python_env else sys.executable
        distributed = processes > 1 or group.nodes > 1
        launcher = torchrun(processes, group) if distributed else []
        return [python, *launcher, "-m", START, self.module, str(request_file)]


def torchrun(processes: int, group: Group) -> list[str]:
    """The launcher of this pod's processes; the processes of all pods meet at the leader."""
    options = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    if group.nodes == 1:
        return [*options, "--standalone"]
    return [
        *options,
        f"--nnodes={group.nodes}",
        f"--node-rank={group.node_rank}",
        f"--master-addr={group.leader_host}",
        f"--master-port={group.port}",
        f"--rdzv-conf=timeout={RENDEZVOUS_SECONDS}",
    ]


def run_worker(
    context: StageContext,
    program: Program[Outcome],
    request: WorkerRequest,
    *,
    on_event: EventHandler = lambda event: None,
    processes: int = 1,
    rendezvous: Rendezvous | None = None,
    stop_file: Path | None = None,
) -> Outcome:
    """Runs a worker to its end and returns its outcome.

    Args:
        request: the worker's input; `threads` is filled in.
        on_event: called with each progress event.
        rendezvous: the other pods; when one of them is lost the worker is terminated.
        stop_file: created to ask the worker to stop when the pod is stopped; without it the worker is terminated.

    Raises:
        StageError: what the worker raised; TryAgain when the pod was stopped or another pod is lost.
    """
    rendezvous = rendezvous or Rendezvous()
    request_file = context.work.absolute() / f"{program.module.rsplit('.', 1)[-1]}.json"
    request = request.model_copy(update={"threads": context.threads})
    request_file.write_text(request.model_dump_json(by_alias=True))
    started = subprocess.Popen(
        program.command(request_file, processes, context.group),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(os.environ, context.threads, use_gpus=context.spec.resources.gpus > 0)
        | ({} if program.compiles else NEVER_COMPILE)
        | (allocator(os.environ) if program.reuses_memory else {}),
        cwd=context.work,  # some libraries write into the current directory, and the root is read-only
        start_new_session=True,  # Ctrl-C reaches the stage only, which then stops the worker in order
    )
    killed_before = oom_kills()
    with started as process, _stopped_with(context.stopping, rendezvous.lost, process, stop_file):
        ended = _follow(process, context, on_event)
    if ended.result is not None:  # the work is done; what fails after it is the shutdown of the process
        if process.returncode:
            context.log.warning("%s ended with code %d after its work was done", program.module, process.returncode)
        return program.outcome.model_validate(ended.result)
    if context.stopping.is_set():
        raise preempted()
    if rendezvous.lost.is_set() or any(PEER_GONE.search(line) for line in ended.last_lines):
        raise TryAgain(reasons.PEER_LOST, "Another node is gone or does not answer.", RESTART_ADVICE)
    spared = killed_before is not None and oom_kills() == killed_before
    raise _crash(program.module, process.returncode, ended.last_lines, spared)


def environment(inherited: Mapping[str, str], threads: int | None, *, use_gpus: bool) -> dict[str, str]:
    """The worker's environment: no credentials, no network, the number of threads of the spec."""
    kept = {key: value for key, value in inherited.items() if not key.startswith(CREDENTIALS)}
    fixed = {
        "HF_HUB_OFFLINE": "1",
        # Waiting threads sleep: spinning ones cost ten times the time where CPUs are shared or limited.
        "OMP_WAIT_POLICY": "passive",
        # The same input must give the same bytes.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONHASHSEED": "0",
        # A log for people: no progress bars, no warnings that are meant for developers.
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "LLM_COMPRESSOR_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    fixed |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    fixed |= {} if use_gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return kept | fixed


def allocator(inherited: Mapping[str, str]) -> dict[str, str]:
    """What makes a worker use the image's allocator instead of the C library's, where the image has one."""
    return {"LD_PRELOAD": inherited[ENV_ALLOCATOR]} if ENV_ALLOCATOR in inherited else {}


class _Ended(NamedTuple):
    """What a worker has left when its output ends."""

    result: dict[str, object] | None
    last_lines: list[str]


def _follow(process: "subprocess.Popen[str]", context: StageContext, on_event: EventHandler) -> _Ended:
    """Reads the worker's output to its end.

    Raises:
        StageError: a process has failed; one that knows the cause comes before those that only lost their peer.
    """
    result: dict[str, object] | None = None
    failures: dict[int, StageError] = {}  # by the process that has failed
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    for line in process.stdout:
        text, separator, record = line.partition(RECORD)
        if text.strip():
            last_lines.append(text.rstrip())
            context.log.info("%s", text.rstrip())
        if not separator:
            continue
        event = WORKER_EVENT.validate_json(record)
        match event:
            case WorkerFailed():
                failures[event.pid] = FAILURES[event.kind](event.reason, event.message, event.advice)
            case WorkerResult():
                result = event.result
            case _:
                on_event(event)
    process.wait()
    _raise_cause(failures, last_lines)
    return _Ended(result, list(last_lines))


def _raise_cause(failures: Mapping[int, StageError], last_lines: Iterable[str]) -> None:
    """Raises the failure that knows the cause, before those that only lost their peer.

    A process that died without a word may be that peer; one that died after it had reported its failure is not.
    """
    if causes := [error for error in failures.values() if error.reason != reasons.PEER_LOST]:
        raise causes[0]
    if failures and _signals(last_lines).keys() <= failures.keys():
        raise next(iter(failures.values()))


def _signals(last_lines: Iterable[str]) -> dict[int, int]:
    """The processes that a signal ended, and their signals."""
    return {int(found["pid"]): int(found["signal"]) for line in last_lines if (found := DIED.search(line))}


@contextlib.contextmanager
def _stopped_with(
    stopping: threading.Event, lost: threading.Event, process: "subprocess.Popen[str]", stop_file: Path | None
) -> Iterator[None]:
    """Passes a stop on to the worker, and terminates it when a peer is lost; no worker outlives the block."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            if lost.is_set() or (stopping.is_set() and not stop_file):
                _terminate(process)
                return
            if stopping.is_set() and stop_file:
                stop_file.touch()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        _terminate(process)


def _terminate(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _crash(module: str, code: int, last_lines: list[str], spared: bool = False) -> StageError:
    """The error of a worker that ended without one; `spared`: the kernel has killed no process for its memory."""
    if signal.SIGKILL in {-code, *_signals(last_lines).values()} and not spared:
        return DoesNotFit(
            reasons.OUT_OF_MEMORY,
            f"{module} was killed: most likely it needed more memory than the pod may use.",
            "Raise resources.limits.memory, or lower training.microBatchSize or training.maxLength.",
        )
    ended = f"signal {-code}" if code < 0 else f"code {code}"
    last = next((line for line in reversed(last_lines) if line.strip()), "no output")
    return StageError(reasons.STAGE_CRASHED, f"{module} ended with {ended}: {last}", "See the pod's log.")
