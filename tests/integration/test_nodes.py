"""Two pods that train together, run here as two stages on one machine, with gloo and a shared store."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from socket import socket
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load

from integration.conftest import ContextFactory
from tuneyard_api import names, reasons
from tuneyard_api.contracts.results import TrainResult
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.runtime.checkpoints import Checkpoints
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.rendezvous import Group
from tuneyard_trainer.runtime.stage_runner import Outcome
from tuneyard_trainer.stages import run_stage

LONG: Final[dict[str, Any]] = {
    "maxSteps": 40,
    "checkpoints": {"everyMinutes": 1e-4},
}  # a checkpoint after nearly every step
Watcher = Callable[[list[StageContext]], None]


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def free_ports() -> int:
    """The first of two consecutive free ports."""
    while True:
        with socket() as one, socket() as two:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class ReadOnlyStore(S3Store):
    """The store of a follower, which must not write: only the leader does."""

    def write(self, uri: str, data: bytes, content_type: str = "") -> None:
        raise AssertionError(uri)

    def upload(self, path: Path, uri: str) -> None:
        raise AssertionError(uri)

    def delete_prefix(self, uri: str) -> None:
        raise AssertionError(uri)


class Pods:
    """Both pods of a job; they can run several times."""

    def __init__(self, new_context: ContextFactory, place: str, **training: object) -> None:
        self.new_context, self.place, self.training = new_context, place, training
        (self.context,) = self.contexts(1)  # for reads from the store

    def contexts(self, nodes: int = 2) -> list[StageContext]:
        port, contexts = free_ports(), []
        for number in range(nodes):
            resources = {"gpus": 0, "nodes": nodes}
            output = {"uri": f"s3://bucket/{self.place}"}
            context = self.new_context("train", training=self.training, resources=resources, output=output)
            context.group = Group(nodes, number, "127.0.0.1", port)
            context.threads = 1
            if number:
                assert isinstance(context.store, S3Store)
                context.store = ReadOnlyStore(context.store.credentials)
            contexts.append(context)
        return contexts

    def run(self, meanwhile: Watcher = lambda contexts: None, nodes: int = 2) -> list[Outcome]:
        contexts = self.contexts(nodes)
        with ThreadPoolExecutor(nodes) as pool:
            running: list[Future[Outcome]] = [pool.submit(run_stage, context) for context in contexts]
            meanwhile(contexts)
            return [future.result(timeout=300) for future in running]

    @property
    def adapter(self) -> bytes:
        return self.context.store.read(self.context.uri("train", "adapter", "adapter_model.safetensors"))

    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints in the store."""
        return Checkpoints(self.context).steps()

    def files(self) -> set[str]:
        listed = self.context.store.list(self.context.uri("train") + "/")
        return {item.uri.rsplit("/", 1)[1] for item in listed}


def wait_until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 200
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_nodes_train_the_same_adapter(new_context: ContextFactory) -> None:
    """The batch is divided between the pods, so only the order of the sum of gradients differs."""
    exact = {"precision": "fp32", "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
    one, two = Pods(new_context, "one", **exact), Pods(new_context, "two", **exact)
    (alone,) = one.run(nodes=1)
    first, second = two.run()
    assert alone.succeeded, alone
    assert first.succeeded, first
    assert second.succeeded, second
    assert isinstance(first.result, TrainResult)
    assert isinstance(alone.result, TrainResult)
    assert first.result.training.loss == pytest.approx(alone.result.training.loss, rel=1e-3)
    weights, expected = load(two.adapter), load(one.adapter)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=2e-2, atol=2e-4)
    events = {name for name in two.files() if name.startswith("events.out.tfevents.")}
    assert len(events) == 1, "only the first pod writes what TensorBoard reads"
    assert two.files() - events == {"stage.json", "manifest.json", "adapter_config.json", "adapter_model.safetensors"}
    assert second.result == first.result, "the follower reads what the leader has committed"


@pytest.fixture
def undisturbed(new_context: ContextFactory) -> bytes:
    pods = Pods(new_context, "undisturbed", **LONG)
    assert all(outcome.succeeded for outcome in pods.run())
    return pods.adapter


@pytest.mark.lifecycle("node-stopped", "node-crashed")
def test_a_disturbed_run_gives_the_same_bytes(new_context: ContextFactory, undisturbed: bytes) -> None:
    """One pod is stopped, later one is killed; because of dropout the random state of each process matters."""
    pods = Pods(new_context, "disturbed", **LONG)

    def stop_the_second(contexts: list[StageContext]) -> None:
        wait_until(lambda: contexts[1].progress.report().message == "training")
        contexts[1].stopping.set()

    first, second = pods.run(stop_the_second)
    assert (first.exit_code, first.reason) == (names.EXIT_TRY_AGAIN, reasons.PEER_LOST)
    assert (second.exit_code, second.reason) == (names.EXIT_TRY_AGAIN, reasons.PREEMPTED)
    stopped = max(pods.checkpoints())

    def kill_the_second(contexts: list[StageContext]) -> None:
        wait_until(lambda: max(pods.checkpoints()) > stopped)
        kill_worker(contexts[1].work)

    first, _ = pods.run(kill_the_second)
    assert (first.exit_code, first.reason) == (names.EXIT_TRY_AGAIN, reasons.PEER_LOST)
    assert max(pods.checkpoints()) < LONG["maxSteps"]

    assert all(outcome.succeeded for outcome in pods.run())
    assert pods.adapter == undisturbed


def kill_worker(work: Path) -> None:
    """Kills all processes of a pod's worker with SIGKILL."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_worker = str(work).encode() in (process / "cmdline").read_bytes()
        except OSError:
            continue
        if is_worker:
            os.kill(int(process.name), signal.SIGKILL)
