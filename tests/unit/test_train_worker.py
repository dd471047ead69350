"""Workers: what they are given, what they send, how they end. The workers here are small programs of their own."""

import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_store.credentials import Credentials
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, StageError, TryAgain
from tuneyard_trainer.runtime.rendezvous import Group, Peers
from tuneyard_trainer.runtime.stage_runner import StageContext
from tuneyard_trainer.runtime.worker import Program, environment, run_worker

SPEC = {
    "model": {"uri": "s3://bucket/model"},
    "dataset": {"train": [{"uri": "s3://bucket/data"}]},
    "output": {"uri": "s3://bucket/out"},
    "resources": {"gpus": 0},
}
HEAD = "import os, sys, time\nfrom tuneyard_trainer.runtime.worker import emit, worker_main\n"


class Bench:
    """Runs Python text as a worker."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(folder))
        self.folder = folder
        spec = FineTuneJobSpec.model_validate(SPEC)
        self.context = StageContext("train", "x", spec, S3Store(Credentials()), folder, threads=2)
        self.events: list[dict[str, Any]] = []

    def run(self, text: str, **options: Any) -> dict[str, Any]:
        (self.folder / "bench_worker.py").write_text(HEAD + text)
        return run_worker(self.context, Program("bench_worker"), {"number": 20}, on_event=self.events.append, **options)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_the_result_and_the_events_come_back(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = """
def work(job):
    print("a line of the log")
    sys.stderr.write("a bar without an end\\r50 %")
    sys.stderr.flush()
    emit("progress", step=1)
    return {"twice": 2 * job["number"], "threads": job["threads"]}
worker_main(work)
"""
    assert bench.run(text) == {"twice": 40, "threads": 2}
    assert bench.events == [{"event": "progress", "step": 1}]
    assert "a line of the log" in caplog.messages
    assert "50 %" in caplog.messages


@pytest.mark.parametrize("kind", [BadInput, DoesNotFit, TryAgain])
def test_an_error_keeps_its_class_reason_and_advice(bench: Bench, kind: type[StageError]) -> None:
    text = f"""
from tuneyard_trainer.runtime.errors import {kind.__name__}
def work(job):
    raise {kind.__name__}("Because", "it is wrong", "mend it")
worker_main(work)
"""
    with pytest.raises(kind) as caught:
        bench.run(text)
    assert (caught.value.reason, caught.value.message, caught.value.advice) == ("Because", "it is wrong", "mend it")


def test_a_crash_is_told_by_its_last_line(bench: Bench) -> None:
    with pytest.raises(StageError, match="ZeroDivisionError: integer division") as caught:
        bench.run("worker_main(lambda job: 1 // 0)")
    assert caught.value.reason == reasons.STAGE_CRASHED
    assert type(caught.value) is StageError


def test_a_killed_worker_did_not_fit(bench: Bench) -> None:
    with pytest.raises(DoesNotFit, match="memory") as caught:
        bench.run("os.kill(os.getpid(), 9)")
    assert caught.value.reason == reasons.OUT_OF_MEMORY


def test_a_worker_without_a_result_crashed(bench: Bench) -> None:
    with pytest.raises(StageError, match="ended with code 0"):
        bench.run("worker_main(lambda job: None)")


def test_what_goes_wrong_after_the_result_is_only_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    text = """
worker_main(lambda job: {"steps": 9})
os.abort()
"""
    assert bench.run(text) == {"steps": 9}
    assert "bench_worker ended with code -6 after its work was done" in caplog.messages


def test_a_stop_ends_the_worker(bench: Bench) -> None:
    threading.Timer(0.5, bench.context.stopping.set).start()
    began = time.monotonic()
    with pytest.raises(TryAgain):
        bench.run("time.sleep(60)")
    assert time.monotonic() - began < 20


def test_a_worker_with_a_stop_file_ends_itself(bench: Bench) -> None:
    bench.context.stopping.set()
    stop_file = bench.folder / "stop"
    text = f"""
def work(job):
    while not os.path.exists({str(stop_file)!r}):
        time.sleep(0.05)
    return {{"saved": True}}
worker_main(work)
"""
    assert bench.run(text, stop_file=stop_file) == {"saved": True}


def test_no_credentials_no_network_fixed_threads() -> None:
    given = {"AWS_SECRET_ACCESS_KEY": "x", "AWS_ACCESS_KEY_ID": "y", "PATH": "/bin"}
    made = environment(given, 3, use_gpus=False)
    assert not [name for name in made if name.startswith("AWS_")]
    assert made["PATH"] == "/bin"
    assert made["OMP_NUM_THREADS"] == made["MKL_NUM_THREADS"] == "3"
    assert made["HF_HUB_OFFLINE"] == "1"
    assert made["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in environment(given, None, use_gpus=True)


def test_several_processes_are_torchrun() -> None:
    command = Program("some.module").command(Path("job.json"), processes=4)
    assert command[0] == sys.executable
    assert command[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in command
    assert command[-3:] == ["-m", "some.module", "job.json"]


def test_several_nodes_are_torchrun_that_meets_at_the_first() -> None:
    command = Program("some.module").command(Path("job.json"), 2, Group(nodes=3, number=1, host="x-0.x", port=29500))
    options = {"--nproc-per-node=2", "--nnodes=3", "--node-rank=1", "--master-addr=x-0.x", "--master-port=29500"}
    assert options < set(command)
    assert "--standalone" not in command
    assert "--nnodes=2" in Program("some.module").command(Path("job.json"), 1, Group(2, 0, "x-0.x"))


def test_a_lost_peer_ends_the_worker(bench: Bench) -> None:
    peers = Peers()
    threading.Timer(0.5, peers.lost.set).start()
    with pytest.raises(TryAgain) as caught:
        bench.run("time.sleep(60)", peers=peers, stop_file=bench.folder / "stop")
    assert caught.value.reason == reasons.PEER_LOST


def test_a_worker_that_nccl_has_aborted_lost_a_peer(bench: Bench) -> None:
    text = "print('NCCL error: ncclRemoteError: a remote process exited', flush=True)\nos.abort()"
    with pytest.raises(TryAgain) as caught:
        bench.run(text)
    assert caught.value.reason == reasons.PEER_LOST


def test_a_process_of_several_that_was_killed_did_not_fit(bench: Bench) -> None:
    """And no other process, which has only lost it, makes that a preemption."""
    text = """
emit("failed", kind="TryAgain", reason="PeerLost", message="a peer is gone", advice="")
print("  traceback : Signal 9 (SIGKILL) received by PID 27523")
sys.exit(1)
"""
    with pytest.raises(DoesNotFit) as caught:
        bench.run(text)
    assert caught.value.reason == reasons.OUT_OF_MEMORY


def test_processes_that_torchrun_has_ended_say_nothing_of_the_cause(bench: Bench) -> None:
    text = """
emit("failed", kind="TryAgain", reason="PeerLost", message="a peer is gone", advice="")
print("  traceback : Signal 15 (SIGTERM) received by PID 27524")
sys.exit(1)
"""
    with pytest.raises(TryAgain) as caught:
        bench.run(text)
    assert caught.value.reason == reasons.PEER_LOST


def test_of_several_processes_the_one_that_knows_the_cause_is_heard(bench: Bench) -> None:
    text = """
lost = {"kind": "TryAgain", "reason": "PeerLost", "message": "a peer is gone", "advice": ""}
emit("failed", **lost)
emit("failed", kind="DoesNotFit", reason="OutOfMemory", message="no memory", advice="")
emit("failed", **lost)
"""
    with pytest.raises(DoesNotFit, match="no memory"):
        bench.run(text)


def test_a_program_may_have_an_interpreter_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program("some.module", "TUNEYARD_QUANTIZER_PYTHON")
    monkeypatch.delenv("TUNEYARD_QUANTIZER_PYTHON", raising=False)
    assert program.command(Path("job.json"))[0] == sys.executable
    monkeypatch.setenv("TUNEYARD_QUANTIZER_PYTHON", "/opt/quantizer/bin/python")
    assert program.command(Path("job.json"))[0] == "/opt/quantizer/bin/python"
