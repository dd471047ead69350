"""What a stage's container does, without a model: the same digests, commit marks, exit codes and messages."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from support.podstatus import STORE_AWAY, End, termination
from support.reports import DATASET, PUBLISHED
from tuneyard_api import names, reasons
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.names import Stage
from tuneyard_api.stages import stage_digests

Json = dict[str, Any]

SECONDS: Final[dict[Stage, float]] = {"prepare": 0.4, "train": 1.5, "export": 0.4, "evaluate": 0.4, "publish": 0.2}
PARTS: Final = 10  # the progress moves after each

# How the job ends depends on its data.
GOOD: Final = "s3://data/good.jsonl"
BROKEN: Final = "s3://data/broken.jsonl"
CRASHES: Final = "s3://data/crashes.jsonl"
TOO_LARGE: Final = "s3://data/too-large.jsonl"


FAILURES: Final[dict[tuple[str, Stage], End]] = {
    (BROKEN, "prepare"): End(names.EXIT_BAD_INPUT, termination(reasons.INVALID_JSON, "line 3 is not JSON")),
    (CRASHES, "train"): End(names.EXIT_UNKNOWN, termination(reasons.STAGE_CRASHED, "RuntimeError: no reason")),
    (TOO_LARGE, "train"): End(names.EXIT_DOES_NOT_FIT, termination(reasons.OUT_OF_MEMORY, "the model is too large")),
}


class Store:
    """The object store: the commit marks, and whether it answers."""

    def __init__(self) -> None:
        self.marks: dict[str, Json] = {}
        self.away = False


class StageRun(NamedTuple):
    """One start of one stage's container."""

    store: Store
    job: Json  # job.json of the ConfigMap
    stage: Stage
    digests: dict[Stage, str]  # empty for prepare, which computes them
    pace: float  # multiplies the time that a stage takes
    progress: Callable[[Json], None]


async def run_stage(run: StageRun) -> End:
    """Reuses what is committed; otherwise works and commits. May be cancelled at any time."""
    spec = FineTuneJobSpec.model_validate(run.job["spec"])
    data = spec.dataset.train[0].uri
    digests = run.digests or stage_digests(spec, {"data": data, "name": run.job["metadata"]["name"]})
    marks = {stage: f"{spec.output.uri}/runs/{digests[stage]}/{stage}/stage.json" for stage in digests}
    if run.store.away:
        return STORE_AWAY
    if marks[run.stage] in run.store.marks:
        return _done(run, digests, marks, reasons.ADOPTED)
    for part in range(PARTS):
        percent = 100 * part // PARTS
        run.progress({"stage": run.stage, "percent": percent, "step": part, "steps": PARTS, "loss": 3.0 - part / PARTS})
        await asyncio.sleep(SECONDS[run.stage] * run.pace / PARTS)
    if failure := FAILURES.get((data, run.stage)):
        return failure
    if run.store.away:
        return STORE_AWAY
    run.store.marks[marks[run.stage]] = _result(run.stage, spec)
    # Between the mark and the termination message there is time to be killed.
    await asyncio.sleep(0.05 * random.random())
    return _done(run, digests, marks, reasons.COMPLETED)


def _done(run: StageRun, digests: dict[Stage, str], marks: dict[Stage, str], reason: str) -> End:
    result = run.store.marks[marks[run.stage]]
    if run.stage == "prepare":
        result = result | {"digests": digests, "done": _committed(run.store, marks)}
    return End(names.EXIT_DONE, termination(reason, result=result))


def _committed(store: Store, marks: dict[Stage, str]) -> list[Stage]:
    """The stages after prepare, up to the first that is not committed."""
    done: list[Stage] = []
    for stage in list(marks)[1:]:
        if marks[stage] not in store.marks:
            break
        done.append(stage)
    return done


def _result(stage: Stage, spec: FineTuneJobSpec) -> Json:
    if stage == "prepare":
        return {"dataset": DATASET}
    trained = {"training": PUBLISHED["training"]}
    results: dict[Stage, Json] = {"train": trained, "evaluate": PUBLISHED["evaluation"], "publish": PUBLISHED}
    return results.get(stage, {})
