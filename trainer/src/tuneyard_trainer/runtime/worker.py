"""Heavy work runs in a process of its own, which is not given the store's credentials; the stage never imports torch.

The two talk over the worker's standard output: what follows a record separator (as in RFC 7464) on a line is an event
in JSON, all else is the worker's log. So it works through torchrun, and in an environment with other libraries.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, StageError, TryAgain
from tuneyard_trainer.runtime.rendezvous import AGAIN, ALONE, Group, Peers

if TYPE_CHECKING:
    from tuneyard_trainer.runtime.stage_runner import StageContext

Json = dict[str, Any]
EventHandler = Callable[[Json], None]

RECORD: Final = "\x1e"
FAILURES: Final[dict[str, type[StageError]]] = {
    kind.__name__: kind for kind in (StageError, BadInput, DoesNotFit, TryAgain)
}
KILL_AFTER_SECONDS: Final = 20
LAST_LINES: Final = 100  # torchrun has many last words of its own
RENDEZVOUS_SECONDS: Final = 3600  # one node may need that much longer to download the model than another
# What NCCL says in a process that it aborts because another one is gone. (Gloo's processes say it themselves.)
PEER_GONE: Final = "ncclRemoteError"
# What torchrun says of a process of this pod that a signal ended; with SIGTERM it ends the others itself.
DIED: Final = re.compile(r"Signal (?!15\b)(\d+) \(SIG\w+\) received")


class Program(NamedTuple):
    """A Python module that does heavy work, and the environment variable that names its interpreter, if not ours."""

    module: str
    python_env: str | None = None

    def command(self, job_file: Path, processes: int = 1, group: Group = ALONE) -> list[str]:
        python = os.environ.get(self.python_env, sys.executable) if self.python_env else sys.executable
        several = processes > 1 or group.nodes > 1
        return [python, *(launcher(processes, group) if several else []), "-m", self.module, str(job_file)]


def launcher(processes: int, group: Group) -> list[str]:
    """torchrun, for the processes of this pod; those of all pods meet at the first one."""
    started = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    if group.nodes == 1:
        return [*started, "--standalone"]
    place = [f"--nnodes={group.nodes}", f"--node-rank={group.number}"]
    return [
        *started,
        *place,
        f"--master-addr={group.host}",
        f"--master-port={group.port}",
        f"--rdzv-conf=timeout={RENDEZVOUS_SECONDS}",
    ]


# --- the stage's side -------------------------------------------------------------------------------------------------


def run_worker(
    context: "StageContext",
    program: Program,
    job: Json,
    *,
    on_event: EventHandler = lambda event: None,
    processes: int = 1,
    peers: Peers | None = None,
    stop_file: Path | None = None,
) -> Json:
    """Runs one worker to its end and returns its result.

    Args:
        job: what the worker does; `threads` is added.
        on_event: is given every event but the result.
        peers: the other pods; when one is lost the worker is ended.
        stop_file: how the worker is asked to stop when the pod is; without it it is terminated.

    Raises:
        StageError: what the worker raised; TryAgain when the pod is stopped, or a peer is lost.
    """
    peers = peers or Peers()
    job_file = context.work.absolute() / f"{program.module.rsplit('.', 1)[-1]}.json"
    job_file.write_text(json.dumps(job | {"threads": context.threads}))
    started = subprocess.Popen(
        program.command(job_file, processes, context.group),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(os.environ, context.threads, use_gpus=context.spec.resources.gpus > 0),
        cwd=context.work,  # some libraries write beside themselves, and the root is read-only
        start_new_session=True,  # Ctrl-C reaches the stage only, which then stops the worker in order
    )
    with started as process, _stopped_with(context.stopping, peers.lost, process, stop_file):
        result, last_lines = _follow(process, context, on_event)
    if result is not None:  # its last words: what goes wrong after them is in taking the process down
        if process.returncode:
            context.log.warning("%s ended with code %d after its work was done", program.module, process.returncode)
        return result
    if context.stopping.is_set():
        raise TryAgain(reasons.PREEMPTED, "The stage was stopped before it had finished.", "It will be started again.")
    if peers.lost.is_set() or any(PEER_GONE in line for line in last_lines):
        raise TryAgain(reasons.PEER_LOST, "Another node is gone or does not answer.", AGAIN)
    raise _crash(program.module, process.returncode, last_lines)


def environment(
    inherited: "os._Environ[str] | dict[str, str]", threads: int | None, *, use_gpus: bool
) -> dict[str, str]:
    """The worker's environment: no credentials, no network, the threads that the spec names."""
    kept = {key: value for key, value in inherited.items() if not key.startswith("AWS_")}
    fixed = {
        "HF_HUB_OFFLINE": "1",
        # Threads that wait asleep: spinning ones cost ten times the time where CPUs are shared or limited.
        "OMP_WAIT_POLICY": "passive",
        # What depends on the run, and not on the input, changes an artifact's bytes.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONHASHSEED": "0",
        # A log that a person reads: no progress bars, no notes from one library's author to another's.
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


def _follow(
    process: "subprocess.Popen[str]", context: "StageContext", on_event: EventHandler
) -> tuple[Json | None, list[str]]:
    """The result and the last lines of the log.

    Raises:
        StageError: one of the processes has failed; of several the one that did not only lose another.
    """
    result: Json | None = None
    failures: list[StageError] = []
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    for line in process.stdout:
        text, separator, record = line.partition(RECORD)
        if text.strip():
            last_lines.append(text.rstrip())
            context.log.info("%s", text.rstrip())
        if not separator:
            continue
        event = json.loads(record)
        if event["event"] == "failed":
            failures.append(FAILURES[event["kind"]](event["reason"], event["message"], event["advice"]))
        elif event["event"] == "result":
            result = event["result"]
        else:
            on_event(event)
    process.wait()
    if own := [each for each in failures if each.reason != reasons.PEER_LOST]:
        raise own[0]
    if failures and not any(DIED.search(line) for line in last_lines):
        raise failures[0]
    return result, list(last_lines)


@contextlib.contextmanager
def _stopped_with(
    stopping: threading.Event, lost: threading.Event, process: "subprocess.Popen[str]", stop_file: Path | None
) -> Iterator[None]:
    """Passes a stop on to the worker, and ends it when a peer is lost; no worker outlives the block."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            if lost.is_set() or (stopping.is_set() and not stop_file):
                _end(process)
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
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _crash(module: str, code: int, last_lines: list[str]) -> StageError:
    died = {int(found[1]) for line in last_lines if (found := DIED.search(line))}
    if signal.SIGKILL in {-code, *died}:
        return DoesNotFit(
            reasons.OUT_OF_MEMORY,
            f"{module} was killed: most likely it needed more memory than the pod may use.",
            "Raise resources.limits.memory, or lower training.microBatchSize or training.maxLength.",
        )
    ended = f"signal {-code}" if code < 0 else f"code {code}"
    last = next((line for line in reversed(last_lines) if line.strip()), "no output")
    return StageError(reasons.STAGE_CRASHED, f"{module} ended with {ended}: {last}", "See the pod's log.")


# --- the worker's side ------------------------------------------------------------------------------------------------


def emit(event: str, **fields: Any) -> None:
    """Sends one event to the stage."""
    sys.stdout.write(f"{RECORD}{json.dumps({'event': event, **fields})}\n")
    sys.stdout.flush()


def worker_main(work: Callable[[Json], Json | None]) -> None:
    """Runs a worker: reads its job, does the work, sends the result or what went wrong."""
    job = json.loads(Path(sys.argv[1]).read_text())
    try:
        result = work(job)
    except StageError as error:
        emit("failed", kind=type(error).__name__, reason=error.reason, message=error.message, advice=error.advice)
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        said = traceback.format_exception_only(error)[-1].strip()
        emit(
            "failed", kind=StageError.__name__, reason=reasons.STAGE_CRASHED, message=said, advice="See the pod's log."
        )
        sys.exit(1)
    if result is not None:
        emit("result", result=result)
