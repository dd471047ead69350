"""Worker processes: requests, events, ends. The workers here are small programs."""

import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tuneyard_api import reasons
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.requests import ItemsDone, WorkerRequest
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_store.credentials import Credentials
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, StageError, TryAgain
from tuneyard_trainer.runtime.rendezvous import Group, Rendezvous
from tuneyard_trainer.runtime.worker import START, Program, ProgressEvent, environment, run_worker

SPEC = {
    "model": {"uri": "s3://bucket/model"},
    "dataset": {"train": [{"uri": "s3://bucket/data"}]},
    "output": {"uri": "s3://bucket/out"},
    "resources": {"gpus": 0},
}
HEAD = """
import os, sys, time
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.requests import ItemsDone, WorkerFailed, WorkerRequest
from tuneyard_trainer.runtime.worker_main import emit, worker_main
class Request(WorkerRequest):
    number: int
class Answer(Contract):
    number: int = 0
    threads: int | None = None
"""


class Request(WorkerRequest):
    number: int


class Answer(Contract):
    number: int = 0
    threads: int | None = None


class Bench:
    """Runs Python text as a worker."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(folder))
        self.folder = folder
        spec = FineTuneJobSpec.model_validate(SPEC)
        self.context = StageContext("train", "x", spec, S3Store(Credentials()), folder, threads=2)
        self.events: list[ProgressEvent] = []

    def run(self, text: str, *, compiles: bool = False, reuses_memory: bool = False, **options: Any) -> Answer:
        (self.folder / "bench_worker.py").write_text(HEAD + text)
        program = Program("bench_worker", Answer, compiles=compiles, reuses_memory=reuses_memory)
        return run_worker(self.context, program, Request(number=20), on_event=self.events.append, **options)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_result_and_events(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = """
def work(request):
    print("a line of the log")
    sys.stderr.write("a bar without an end\\r50 %")
    sys.stderr.flush()
    emit(ItemsDone(done=1, total=2))
    return Answer(number=2 * request.number, threads=request.threads)
worker_main(Request, work)
"""
    assert bench.run(text) == Answer(number=40, threads=2)
    assert bench.events == [ItemsDone(done=1, total=2)]
    assert "a line of the log" in caplog.messages
    assert "50 %" in caplog.messages


def test_garbage_is_collected_after_the_imports(bench: Bench) -> None:
    text = """
import gc
imported = gc.isenabled()
def work(request):
    assert gc.get_freeze_count()
    return Answer(number=2 * gc.isenabled() + imported)
worker_main(Request, work)
"""
    assert bench.run(text) == Answer(number=2)


@pytest.mark.parametrize("compiles", [True, False])
def test_compiler_is_off_unless_the_program_uses_it(bench: Bench, *, compiles: bool) -> None:
    text = """
import os
def work(request):
    return Answer(number=int(os.environ.get("TORCHDYNAMO_DISABLE", "0")))
worker_main(Request, work)
"""
    assert bench.run(text, compiles=compiles) == Answer(number=not compiles)


@pytest.mark.parametrize("reuses_memory", [False, True])
def test_only_what_reuses_memory_gets_the_allocator(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, reuses_memory: bool
) -> None:
    text = """
def work(request):
    return Answer(number=len(os.environ.get("LD_PRELOAD", "")))
worker_main(Request, work)
"""
    monkeypatch.delenv("TUNEYARD_ALLOCATOR", raising=False)
    assert bench.run(text, reuses_memory=reuses_memory) == Answer(), "not in an image"
    library = str(bench.folder / "none.so")  # the loader says that it is not there, and goes on
    monkeypatch.setenv("TUNEYARD_ALLOCATOR", library)
    assert bench.run(text, reuses_memory=reuses_memory) == Answer(number=len(library) if reuses_memory else 0)


@pytest.mark.parametrize("kind", [BadInput, DoesNotFit, TryAgain])
def test_errors_keep_their_class(bench: Bench, kind: type[StageError]) -> None:
    text = f"""
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import {kind.__name__}
def work(request):
    raise {kind.__name__}("Because", "it is wrong", "mend it")
worker_main(Request, work)
"""
    with pytest.raises(kind) as caught:
        bench.run(text)
    assert (caught.value.reason, caught.value.message, caught.value.advice) == ("Because", "it is wrong", "mend it")


def test_crash_names_its_exception(bench: Bench) -> None:
    with pytest.raises(StageError, match="ZeroDivisionError: integer division") as caught:
        bench.run("worker_main(Request, lambda request: 1 // 0)")
    assert caught.value.reason == reasons.STAGE_CRASHED
    assert type(caught.value) is StageError


def test_sigkill_means_out_of_memory(bench: Bench) -> None:
    with pytest.raises(DoesNotFit, match="memory") as caught:
        bench.run("os.kill(os.getpid(), 9)")
    assert caught.value.reason == reasons.OUT_OF_MEMORY


def test_no_result_is_a_crash(bench: Bench) -> None:
    with pytest.raises(StageError, match="ended with code 0"):
        bench.run("worker_main(Request, lambda request: None)")


def test_crash_after_the_result_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    text = """
worker_main(Request, lambda request: Answer(number=9))
os.abort()
"""
    assert bench.run(text) == Answer(number=9)
    assert "bench_worker ended with code -6 after its work was done" in caplog.messages


def test_stop_terminates_the_worker(bench: Bench) -> None:
    threading.Timer(0.5, bench.context.stopping.set).start()
    began = time.monotonic()
    with pytest.raises(TryAgain):
        bench.run("time.sleep(60)")
    assert time.monotonic() - began < 20


def test_stop_file(bench: Bench) -> None:
    bench.context.stopping.set()
    stop_file = bench.folder / "stop"
    text = f"""
def work(request):
    while not os.path.exists({str(stop_file)!r}):
        time.sleep(0.05)
    return Answer(number=1)
worker_main(Request, work)
"""
    assert bench.run(text, stop_file=stop_file) == Answer(number=1)


def test_environment() -> None:
    given = {"AWS_SECRET_ACCESS_KEY": "x", "AWS_ACCESS_KEY_ID": "y", "MLFLOW_TRACKING_TOKEN": "z", "PATH": "/bin"}
    made = environment(given, 3, use_gpus=False)
    assert not set("xyz") & set(made.values())
    assert made["PATH"] == "/bin"
    assert made["OMP_NUM_THREADS"] == made["MKL_NUM_THREADS"] == "3"
    assert made["HF_HUB_OFFLINE"] == "1"
    assert made["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in environment(given, None, use_gpus=True)


def test_torchrun_on_one_node() -> None:
    command = Program("some.module", Answer).command(Path("request.json"), processes=4)
    assert command[0] == sys.executable
    assert command[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in command
    assert command[-4:] == ["-m", START, "some.module", "request.json"]


def test_torchrun_on_several_nodes() -> None:
    command = Program("some.module", Answer).command(
        Path("request.json"), 2, Group(nodes=3, node_rank=1, leader_host="x-0.x", port=29500)
    )
    options = {"--nproc-per-node=2", "--nnodes=3", "--node-rank=1", "--master-addr=x-0.x", "--master-port=29500"}
    assert options < set(command)
    assert "--standalone" not in command
    assert "--nnodes=2" in Program("some.module", Answer).command(Path("request.json"), 1, Group(2, 0, "x-0.x"))


def test_lost_peer_terminates_the_worker(bench: Bench) -> None:
    rendezvous = Rendezvous()
    threading.Timer(0.5, rendezvous.lost.set).start()
    with pytest.raises(TryAgain) as caught:
        bench.run("time.sleep(60)", rendezvous=rendezvous, stop_file=bench.folder / "stop")
    assert caught.value.reason == reasons.PEER_LOST


@pytest.mark.parametrize(
    "message",
    [
        "NCCL error: ncclRemoteError: a remote process exited",
        "terminate called after throwing an instance of 'gloo::IoException'",
    ],
)
def test_abort_for_a_lost_peer(bench: Bench, message: str) -> None:
    with pytest.raises(TryAgain) as caught:
        bench.run(f"print({message!r}, flush=True)\nos.abort()")
    assert caught.value.reason == reasons.PEER_LOST


def test_abort_after_a_lost_peer_was_reported(bench: Bench) -> None:
    """As Gloo's threads may do while the process ends."""
    text = """
emit(WorkerFailed(pid=os.getpid(), kind="TryAgain", reason="PeerLost", message="a peer is gone"))
print(f"  traceback : Signal 6 (SIGABRT) received by PID {os.getpid()}")
sys.exit(1)
"""
    with pytest.raises(TryAgain, match="a peer is gone") as caught:
        bench.run(text)
    assert caught.value.reason == reasons.PEER_LOST


def test_sigkill_of_one_of_several_processes(bench: Bench) -> None:
    """The processes that lost it as a peer do not make it a preemption."""
    text = """
emit(WorkerFailed(pid=os.getpid(), kind="TryAgain", reason="PeerLost", message="a peer is gone"))
print("  traceback : Signal 9 (SIGKILL) received by PID 27523")
sys.exit(1)
"""
    with pytest.raises(DoesNotFit) as caught:
        bench.run(text)
    assert caught.value.reason == reasons.OUT_OF_MEMORY


def test_sigterm_by_torchrun_is_no_cause(bench: Bench) -> None:
    text = """
emit(WorkerFailed(pid=os.getpid(), kind="TryAgain", reason="PeerLost", message="a peer is gone"))
print("  traceback : Signal 15 (SIGTERM) received by PID 27524")
sys.exit(1)
"""
    with pytest.raises(TryAgain) as caught:
        bench.run(text)
    assert caught.value.reason == reasons.PEER_LOST


def test_cause_comes_before_lost_peers(bench: Bench) -> None:
    text = """
lost = {"kind": "TryAgain", "reason": "PeerLost", "message": "a peer is gone"}
emit(WorkerFailed(pid=101, **lost))
emit(WorkerFailed(pid=102, kind="DoesNotFit", reason="OutOfMemory", message="no memory"))
emit(WorkerFailed(pid=103, **lost))
"""
    with pytest.raises(DoesNotFit, match="no memory"):
        bench.run(text)


def test_program_with_its_own_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program("some.module", Answer, "TUNEYARD_QUANTIZER_PYTHON")
    monkeypatch.delenv("TUNEYARD_QUANTIZER_PYTHON", raising=False)
    assert program.command(Path("request.json"))[0] == sys.executable
    monkeypatch.setenv("TUNEYARD_QUANTIZER_PYTHON", "/opt/quantizer/bin/python")
    assert program.command(Path("request.json"))[0] == "/opt/quantizer/bin/python"
