"""Export and publish while they are killed and the store fails: the same bytes, or a failure that names nothing.

TUNEYARD_KILLS says how often each of the two is killed.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.conftest import ContextFactory, free_port
from support.faultys3 import FaultyS3, faulty_s3, none, some
from tuneyard_api import names, reasons
from tuneyard_api.contracts.artifact import MANIFEST, Manifest
from tuneyard_api.contracts.results import (
    RELEASE_FILE,
    STAGE_MARK,
    ArtifactRef,
    EvaluateResult,
    ExportResult,
    Release,
)
from tuneyard_api.kinds.finetunejob_status import Measurement
from tuneyard_api.names import Stage
from tuneyard_store.artifact import fetch_directory
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage

KILLS: Final = int(os.environ.get("TUNEYARD_KILLS", "3"))
TRIES: Final = 60
SPEC: Final = {"export": {"formats": ["bf16"]}}
STAGES: Final[tuple[Stage, ...]] = ("export", "publish")


class Pods:
    """Runs stages as their pods do, in processes that can be killed with all that they have started."""

    def __init__(self, context: StageContext, endpoint: str) -> None:
        self._context, self._folder = context, context.work
        spec = context.spec.wire()
        (self._folder / "job.json").write_text(json.dumps({"metadata": {"name": context.name}, "spec": spec}))
        credentials = context.store.credentials  # type: ignore[attr-defined]
        self._env = os.environ | {
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_ENDPOINT_URL": endpoint,
            names.ENV_DIGESTS: json.dumps(context.digests),
            names.ENV_TERMINATION_LOG: str(self._folder / "termination"),
            names.ENV_THREADS: "2",
        }

    def start(self, stage: Stage) -> "subprocess.Popen[bytes]":
        program = "import sys; from tuneyard_trainer.commands.cli import main; sys.exit(main())"
        job = ["--job", str(self._folder / "job.json"), "--workdir", str(self._folder)]
        env = self._env | {names.ENV_PROGRESS_PORT: str(free_port())}
        return subprocess.Popen(
            [sys.executable, "-c", program, "stage", stage, *job], env=env, stdout=subprocess.DEVNULL
        )

    def run(self, stage: Stage) -> tuple[int, str]:
        """To its end; the exit code, and the reason that it gives."""
        code = self.start(stage).wait(300)
        return code, str(json.loads((self._folder / "termination").read_text())["reason"])

    def kill(self, stage: Stage, after: float) -> None:
        """After some seconds, if it has not ended by then."""
        pod = self.start(stage)
        try:
            pod.wait(after)
        except subprocess.TimeoutExpired:
            for process in list(with_children(pod.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            pod.wait(60)


def with_children(process: int) -> Iterator[int]:
    """The process, and all that it and its children have started."""
    yield process
    with contextlib.suppress(FileNotFoundError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from with_children(int(child))


@pytest.fixture
def faulty(store: S3Store) -> Iterator[FaultyS3]:
    port = int(str(store.credentials.endpoint_url).rpartition(":")[2])
    with faulty_s3(port) as server:
        yield server


@pytest.fixture
def context(new_context: ContextFactory, request: pytest.FixtureRequest) -> StageContext:
    """Of a run of its own, which is trained and has been measured."""
    changes = SPEC | {"output": {"uri": f"s3://bucket/{request.node.name}"}}
    assert run_stage(new_context("train", **changes)).succeeded
    evaluated = new_context("evaluate", **changes)
    measured = [Measurement(subject=name, metric="perplexity", value=2.0) for name in ("base", "tuned")]
    evaluated.commit(EvaluateResult(measurements=measured, gates=[], passed=True, rows=1, tokens=1))
    return new_context("export", **changes)


def named(context: StageContext) -> list[ArtifactRef]:
    """Every artifact that export's commit mark and the release name."""
    found: list[ArtifactRef] = []
    if exported := context.find_result(ExportResult):
        found += [exported.merged, *exported.artifacts]
    uri = context.uri("publish", RELEASE_FILE)
    if context.store.exists(uri):
        found += Release.model_validate_json(context.store.read(uri)).artifacts
    return found


def require_whole(context: StageContext, to: Path) -> None:
    """Every manifest and every artifact that has a name is verified."""
    for item in context.store.list(context.uri("export") + "/"):
        if item.uri.endswith(f"/{MANIFEST}"):
            fetch_directory(context.store, item.uri.removesuffix(f"/{MANIFEST}"), to)
    for artifact in named(context):
        fetch_directory(context.store, artifact.uri, to, artifact.digest)


def undisturbed(context: StageContext, pods: Pods, to: Path) -> tuple[Manifest, dict[Stage, float]]:
    """The artifact, and how long each stage takes. What they have written is deleted again."""
    seconds: dict[Stage, float] = {}
    for stage in STAGES:
        begin = time.monotonic()
        assert pods.run(stage) == (names.EXIT_DONE, reasons.COMPLETED)
        seconds[stage] = time.monotonic() - begin
    exported = context.result_of(ExportResult)
    manifest = fetch_directory(context.store, exported.merged.uri, to, exported.merged.digest)
    for stage in STAGES:
        context.store.delete_prefix(context.uri(stage) + "/")
    return manifest, seconds


def require_same(context: StageContext, expected: Manifest) -> None:
    assert {artifact.digest for artifact in named(context)} == {expected.digest}
    assert context.store.exists(context.uri("publish", STAGE_MARK))


def test_killed_at_any_time(context: StageContext, faulty: FaultyS3, tmp_path: Path) -> None:
    pods, back = Pods(context, faulty.endpoint), tmp_path / "back"
    expected, seconds = undisturbed(context, pods, back)
    chance = random.Random(1)  # noqa: S311
    for stage in STAGES:
        for _ in range(KILLS):
            # What is written already stays, and is written again.
            context.store.delete_prefix(context.uri(stage, STAGE_MARK))
            pods.kill(stage, chance.uniform(0, seconds[stage]))
            require_whole(context, back)
        assert pods.run(stage)[0] == names.EXIT_DONE
    require_whole(context, back)
    require_same(context, expected)


def test_a_store_that_often_fails(context: StageContext, faulty: FaultyS3, tmp_path: Path) -> None:
    """Three of ten requests: a stage succeeds, or says that the store fails, which is not charged."""
    pods, back = Pods(context, faulty.endpoint), tmp_path / "back"
    expected, _ = undisturbed(context, pods, back)
    for stage in STAGES:
        for seed in range(TRIES):
            faulty.disturb(some(0.3, seed))
            code, reason = pods.run(stage)
            faulty.disturb(none)
            require_whole(context, back)
            if code == names.EXIT_DONE:
                break
            assert (code, reason) == (names.EXIT_TRY_AGAIN, reasons.STORAGE_UNAVAILABLE)
    require_same(context, expected)
