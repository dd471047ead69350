"""The ladder under a real limit of memory: the kernel refuses memory to the worker, or kills it for its memory.

The model has a large vocabulary, so that the logits of the rows of a micro batch are most of what a step needs.
"""

import os
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from integration.conftest import ContextFactory
from tuneyard_api.contracts.results import TrainResult
from tuneyard_api.kinds.finetunejob_status import TrainingStatus
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.data.columns import INPUT_IDS, LABELS
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage

VOCABULARY: Final = 65536
TOKENS: Final = 384  # of a row
MODEL_URI: Final = "s3://bucket/wide"
TRAINING: Final[dict[str, Any]] = {
    "maxSteps": 2,
    "evalSteps": 2,
    "effectiveBatchSize": 8,
    "microBatchSize": 8,
    "precision": "fp32",
    "checkpoints": {"everyMinutes": 60},
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
}
# Of a worker: what it needs at most is written down; a limit holds from its first moment on.
SITE: Final = """
import atexit, os, resource, sys, threading, time
if any("peft.worker" in word for word in sys.orig_argv):
    if group := os.environ.get("LIMIT_GROUP"):
        with open(f"{group}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
    if limit := int(os.environ.get("LIMIT_ADDRESSES", "0")):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if peaks := os.environ.get("PEAKS"):
        most = {"RssAnon": 0, "VmPeak": 0}
        def look():
            while True:
                with open("/proc/self/status") as file:
                    for line in file:
                        name = line.partition(":")[0]
                        if name in most:
                            most[name] = max(most[name], int(line.split()[1]) * 1024)
                with open(peaks + ".new", "w") as file:
                    file.write(" ".join(map(str, most.values())))
                os.replace(peaks + ".new", peaks)  # the process may end at any moment
                time.sleep(0.005)
        threading.Thread(target=look, daemon=True).start()
"""


@pytest.fixture(scope="module")
def wide(store: S3Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the rows; the model is in the store."""
    folder = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    for path in (folder / "model").iterdir():
        store.upload(path, f"{MODEL_URI}/{path.name}")
    chance = random.Random(1)  # noqa: S311
    writer = ShardWriter(folder / "rows")
    for _ in range(16):
        ids = [chance.randrange(10, VOCABULARY) for _ in range(TOKENS)]
        writer.add({INPUT_IDS: ids, LABELS: ids})
    writer.finish()
    return folder / "rows"


class Limited:
    """Train stages on the wide model, each in an output of its own."""

    def __init__(self, new_context: ContextFactory, rows: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.new_context, self.rows, self.patch = new_context, rows, monkeypatch
        self.peaks = site / "peaks"
        (site / "sitecustomize.py").write_text(SITE)
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
        self.count = 0

    def context(self, **training: Any) -> StageContext:
        self.count += 1
        output = {"uri": f"s3://bucket/wide-{os.getpid()}-{id(self)}-{self.count}"}
        context = self.new_context("train", model={"uri": MODEL_URI}, training={**TRAINING, **training}, output=output)
        prepared = context.uri("prepare", "train")
        context.store.delete_prefix(f"{prepared}/")
        for path in self.rows.iterdir():
            context.store.upload(path, f"{prepared}/{path.name}")
        return context

    def train(self, **training: Any) -> TrainingStatus:
        outcome = run_stage(self.context(**training))
        assert isinstance(outcome.result, TrainResult), outcome
        return outcome.result.training

    def peak(self, **training: Any) -> tuple[int, int]:
        """Anonymous memory and addresses that a worker needs at most, in bytes."""
        self.patch.setenv("PEAKS", str(self.peaks))
        self.train(**training)
        self.patch.delenv("PEAKS")
        anonymous, addresses = self.peaks.read_text().split()
        return int(anonymous), int(addresses)


@pytest.fixture
def limited(new_context: ContextFactory, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Limited:
    site = tmp_path / "site"
    site.mkdir()
    return Limited(new_context, wide, site, monkeypatch)


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A control group whose memory can be limited, of either version; in most containers there is none to be had."""
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        group = root / f"tuneyard-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / "memory.max").exists() or (group / "memory.limit_in_bytes").exists():
            yield group
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("the control groups cannot be written here")


def check(found: TrainingStatus, expected: TrainingStatus) -> None:
    """It has climbed to two rows at a time, and the losses are those without a limit."""
    assert [rung.change.partition(",")[0] for rung in found.rungs] == ["microBatchSize 4", "microBatchSize 2"]
    assert (expected.micro_batch_size, found.micro_batch_size) == (8, 2)
    assert found.loss == pytest.approx(expected.loss, rel=0.01)
    losses = [point.validation_loss for point in expected.curve]
    assert [point.validation_loss for point in found.curve] == pytest.approx(losses, rel=0.01)


@pytest.mark.slow
def test_memory_that_is_refused(limited: Limited) -> None:
    """The worker may have no more addresses than two rows at a time need, and half of what four need beside that."""
    expected = limited.train()
    assert not expected.rungs
    _, two = limited.peak(microBatchSize=2)
    _, four = limited.peak(microBatchSize=4)
    assert four > two
    limited.patch.setenv("LIMIT_ADDRESSES", str((two + four) // 2))
    found = limited.train()
    check(found, expected)
    assert all("allocate" in rung.cause for rung in found.rungs)


@pytest.mark.slow
def test_a_worker_that_is_killed(limited: Limited, control_group: Path) -> None:
    """The kernel kills the worker where it has more memory than its control group may."""
    expected = limited.train()
    two, _ = limited.peak(microBatchSize=2)
    four, _ = limited.peak(microBatchSize=4)
    limit = str((two + four) // 2)
    for name in ("memory.limit_in_bytes", "memory.max"):
        if (control_group / name).exists():
            (control_group / name).write_text(limit)
    limited.patch.setenv("LIMIT_GROUP", str(control_group))
    found = limited.train()
    check(found, expected)
    assert all("was killed" in rung.cause for rung in found.rungs)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, "the stage itself has no limit"
