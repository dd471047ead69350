"""The ladder out of a lack of memory: its rungs, the place of a run there, and how a stage climbs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.memorystore import MemoryStore
from tuneyard_api import reasons
from tuneyard_api.contracts.requests import (
    CHUNKED_LOSS,
    OFFLOADED_OPTIMIZER,
    PAGED_OPTIMIZER,
    STREAMED_WEIGHTS,
)
from tuneyard_api.contracts.termination import TrainReport
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.training import Training
from tuneyard_api.stages import STAGES
from tuneyard_trainer.backends.ladder import ladder
from tuneyard_trainer.backends.peft.backend import BACKEND
from tuneyard_trainer.backends.rungs import POD_KILLED, Rungs, shape_of
from tuneyard_trainer.runtime.cgroup import oom_kills
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import DoesNotFit
from tuneyard_trainer.runtime.rendezvous import Group

SAVERS = (CHUNKED_LOSS, PAGED_OPTIMIZER, OFFLOADED_OPTIMIZER, STREAMED_WEIGHTS)
FULL_GPU = DoesNotFit(reasons.OUT_OF_MEMORY, "Out of memory at step 3: CUDA out of memory", "Lower something.")


def settings(rungs: list[Any]) -> list[tuple[int | None, bool, tuple[str, ...]]]:
    return [
        (rung.training.micro_batch_size, rung.training.gradient_checkpointing, rung.memory_savers) for rung in rungs
    ]


def test_the_whole_ladder() -> None:
    rungs = ladder(Training(effective_batch_size=16), devices=1, on_gpu=True, savers=SAVERS)
    assert settings(rungs) == [
        (8, False, ()),
        (4, False, ()),
        (2, False, ()),
        (1, False, ()),
        (1, True, ()),
        (1, True, (CHUNKED_LOSS,)),
        (1, True, (CHUNKED_LOSS, PAGED_OPTIMIZER)),
        (1, True, (CHUNKED_LOSS, OFFLOADED_OPTIMIZER)),
        (1, True, (CHUNKED_LOSS, OFFLOADED_OPTIMIZER, STREAMED_WEIGHTS)),
    ]
    assert rungs[1].change == "microBatchSize 4, 4 of them accumulated in a step"


def test_without_a_gpu_the_optimizer_is_where_it_is() -> None:
    rungs = ladder(Training(micro_batch_size=1, gradient_checkpointing=True), 1, on_gpu=False, savers=SAVERS)
    assert settings(rungs) == [(1, True, ()), (1, True, (CHUNKED_LOSS,)), (1, True, (CHUNKED_LOSS, STREAMED_WEIGHTS))]


def test_streamed_from_the_beginning() -> None:
    rungs = ladder(Training(stream_weights=True, effective_batch_size=2), 1, on_gpu=False, savers=SAVERS)
    assert settings(rungs) == [
        (2, True, (STREAMED_WEIGHTS,)),
        (1, True, (STREAMED_WEIGHTS,)),
        (1, True, (STREAMED_WEIGHTS, CHUNKED_LOSS)),
    ]


@pytest.mark.parametrize(
    ("devices", "training"), [(2, {}), (1, {"method": "full"}), (1, {"lora": {"variant": "dora"}})]
)
def test_weights_that_are_not_streamed(devices: int, training: dict[str, Any]) -> None:
    rungs = ladder(Training.model_validate(training), devices, on_gpu=True, savers=SAVERS)
    assert not any(STREAMED_WEIGHTS in rung.memory_savers for rung in rungs)


@pytest.mark.parametrize(
    ("effective", "micro", "devices", "expected"),
    [
        (12, 6, 1, [6, 3, 1]),
        (10, 10, 1, [10, 5, 2, 1]),
        (32, 8, 4, [8, 4, 2, 1]),
        (16, None, 4, [4, 2, 1]),
        (7, 7, 1, [7, 1]),
    ],
)
def test_the_effective_batch_stays(effective: int, micro: int | None, devices: int, expected: list[int]) -> None:
    training = Training(effective_batch_size=effective, micro_batch_size=micro, gradient_checkpointing=True)
    rungs = ladder(training, devices, on_gpu=False, savers=())
    assert [rung.training.micro_batch_size for rung in rungs] == expected
    assert all(rung.training.effective_batch_size == effective for rung in rungs)
    assert all(effective % (devices * size) == 0 for size in expected)


Make = Callable[..., Rungs]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make(store: MemoryStore, tmp_path: Path) -> Make:
    """A function that makes the ladder of a pod: its run has a name, and equal specs have the same shape."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')

    def make(run: str = "0", pods_killed: int = 0, longest_row: int = 64, nodes: int = 1, **training: Any) -> Rungs:
        spec = FineTuneJobSpec.model_validate(
            {
                "model": {"uri": "s3://bucket/model"},
                "dataset": {"train": [{"uri": "s3://bucket/data.jsonl"}]},
                "training": {"effectiveBatchSize": 4, "microBatchSize": 4, **training},
                "output": {"uri": "s3://bucket/out"},
                "resources": {"gpus": 0, "nodes": nodes},
            }
        )
        context = StageContext("train", "x", spec, store, tmp_path, dict.fromkeys(STAGES, run * 64))
        context.pods_killed, context.group = pods_killed, Group(nodes=nodes)
        return Rungs.of(context, BACKEND, tmp_path, longest_row)

    return make


def micro(rungs: Rungs) -> int | None:
    return rungs.rung.training.given_micro_batch_size


def test_a_pod_begins_where_the_one_before_it_was(make: Make) -> None:
    first = make()
    assert micro(first) == 4
    first.climb(FULL_GPU)
    assert (micro(first), micro(make())) == (2, 2)
    assert [rung.cause for rung in make().taken] == [FULL_GPU.message]
    assert micro(make(run="1")) == 4, "another run knows nothing of it before it has worked"


def test_each_pod_that_was_killed_is_a_rung(make: Make) -> None:
    make()
    assert micro(make(pods_killed=1)) == 2
    assert micro(make(pods_killed=1)) == 2, "that pod was only preempted"
    again = make(pods_killed=2)
    assert micro(again) == 1
    assert [rung.cause for rung in again.taken] == [POD_KILLED, POD_KILLED]


def test_later_runs_of_the_same_shape_begin_at_the_rung_that_worked(make: Make) -> None:
    run = make()
    run.climb(FULL_GPU)
    run.worked()
    later = make(run="1", learningRate=1e-5, epochs=9)
    assert micro(later) == 2
    assert later.taken == [], "it has not climbed it itself"
    for other in ({"maxLength": 512}, {"longest_row": 65}, {"lora": {"rank": 64}}):
        assert micro(make(run="2", **other)) == 4


def test_a_run_that_had_room_leaves_nothing_for_later_runs(make: Make, store: MemoryStore) -> None:
    make().worked()
    assert not any("/memory/" in uri for uri in store.objects)


def test_the_highest_rung_says_what_was_tried(make: Make) -> None:
    rungs = make()
    for _ in range(5):
        rungs.climb(FULL_GPU)
    assert rungs.rung.memory_savers == (CHUNKED_LOSS, STREAMED_WEIGHTS)
    with pytest.raises(DoesNotFit) as caught:
        rungs.climb(FULL_GPU)
    error = caught.value
    assert (error.exit_code, error.reason) == (78, reasons.OUT_OF_MEMORY)
    assert "microBatchSize 2, 2 of them accumulated in a step; microBatchSize 1" in error.message
    assert "gradientCheckpointing; a loss in chunks" in error.message
    assert "training.maxLength" in error.advice
    assert isinstance(error.report, TrainReport)
    assert len(error.report.training.rungs) == 5
    with pytest.raises(DoesNotFit, match="killed because it used more memory"):
        make(pods_killed=1)


@pytest.mark.parametrize("without", [{"oomRecovery": False}, {"nodes": 2, "effectiveBatchSize": 8}])
def test_without_a_ladder_the_error_is_the_workers(make: Make, store: MemoryStore, without: dict[str, Any]) -> None:
    rungs = make(pods_killed=1, **without)
    assert micro(rungs) == 4
    with pytest.raises(DoesNotFit) as caught:
        rungs.climb(FULL_GPU)
    assert caught.value is FULL_GPU
    assert not any("rung.json" in uri for uri in store.objects)


def test_a_damaged_record_is_as_good_as_none(make: Make, store: MemoryStore) -> None:
    make()
    (uri,) = [uri for uri in store.objects if uri.endswith("rung.json")]
    assert json.loads(store.objects[uri])["rung"] == 0
    store.objects[uri] = b"{"
    assert micro(make()) == 4


def test_shapes() -> None:
    def spec(**changes: Any) -> FineTuneJobSpec:
        return FineTuneJobSpec.model_validate(
            {
                "model": {"uri": "s3://bucket/model"},
                "dataset": {"train": [{"uri": "s3://bucket/data.jsonl"}]},
                "output": {"uri": "s3://bucket/out"},
                **changes,
            }
        )

    shape = shape_of(spec(), b"{}", 100)
    assert shape == shape_of(spec(training={"seed": 7, "checkpoints": {"keep": 3}}), b"{}", 100)
    others = [
        shape_of(spec(), b"{ }", 100),
        shape_of(spec(), b"{}", 101),
        shape_of(spec(training={"method": "qlora"}), b"{}", 100),
        shape_of(spec(resources={"gpus": 2}), b"{}", 100),
    ]
    assert len({shape, *others}) == 5


@pytest.mark.parametrize(
    ("membership", "events", "expected"),
    [
        ("0::/\n", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n", 2),
        ("0::/\n", "low 0\n", None),
        ("4:memory:/pod\n", "oom_kill 2\n", None),
        ("0::/\n", None, None),
    ],
)
def test_kills_of_the_kernel(tmp_path: Path, membership: str, events: str | None, expected: int | None) -> None:
    (tmp_path / "membership").write_text(membership)
    if events is not None:
        (tmp_path / "memory.events").write_text(events)
    assert oom_kills(tmp_path, tmp_path / "membership") == expected
