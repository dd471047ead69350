"""The status of a FineTuneJob: read as a run that goes on, written as the API has it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.base import Model
from tuneyard_api.durations import duration
from tuneyard_api.kinds.finetunejob_status import (
    Artifact,
    DatasetStatus,
    EvaluationStatus,
    GateStatus,
    Recommended,
    StageState,
)
from tuneyard_api.names import STAGES, Stage
from tuneyard_api.runs import revision
from tuneyard_operator.finetunejob.children import counted_before
from tuneyard_operator.finetunejob.failures import EndedEarly, cause, delay, remembered
from tuneyard_operator.finetunejob.observe import StageSeen, World, run_jobs
from tuneyard_operator.finetunejob.progress import progress_status
from tuneyard_operator.machinery.conditions import Condition, conditions, parse_time
from tuneyard_operator.machinery.objects import Json, condition_in, generation, is_condition_true, name
from tuneyard_operator.pods.termination import Outcome

PHASES: Final[dict[Stage, str]] = {
    "prepare": "Preparing",
    "train": "Training",
    "export": "Exporting",
    "evaluate": "Evaluating",
    "publish": "Publishing",
}
CONDITIONS: Final[dict[Stage, str]] = {
    "prepare": "DatasetReady",
    "train": "Trained",
    "export": "Exported",
    "evaluate": "Evaluated",
    "publish": "Published",
}


@dataclass
class Failure:
    reason: str
    message: str


@dataclass
class StageRecord:
    """One entry of status.stages."""

    name: Stage
    state: StageState = "Pending"
    job: str | None = None
    digest: str | None = None
    restarts: int = 0
    newly_taken: int = 0  # since the last status
    lost: tuple[str, ...] = ()  # pods that were taken away
    started_at: str | None = None
    finished_at: str | None = None
    message: str | None = None
    last_failure: EndedEarly | None = None
    reason: str | None = None
    cause: Outcome | None = None  # why it failed for good
    delay: float = 0.0  # seconds that its Job may let pass before the next pod

    @property
    def done(self) -> bool:
        return self.state in ("Succeeded", "Adopted")

    def rest(self) -> None:
        """Its Job goes away before the stage is done."""
        self.state, self.job, self.started_at, self.message, self.last_failure = "Pending", None, None, None, None

    def take(self, seen: StageSeen) -> None:
        self.state, self.job = seen.state, name(seen.job)
        self.started_at, self.finished_at = seen.started_at, seen.finished_at
        self.lost = seen.lost
        self._count(seen)
        self.last_failure = max(filter(None, (*seen.ended_early, self.last_failure)), key=_age, default=None)
        self.cause = cause(seen.job, self.last_failure) if seen.state == "Failed" else None
        self.message = _message(self, seen)
        self.reason = _reason(seen)

    def _count(self, seen: StageSeen) -> None:
        """Each pod once: those that were created after the last one that was counted."""
        counted = self.last_failure.created_at if self.last_failure else ""
        new = [each for each in seen.ended_early if each.created_at > counted]
        self.restarts += len(new)
        self.newly_taken = sum(each.taken for each in new)
        if seen.state in ("Succeeded", "Failed"):  # and those that nobody saw
            self.restarts = max(self.restarts, seen.before.restarts + seen.failed)
        self.delay = delay(self.restarts - seen.before.restarts)

    def wire(self) -> Json:
        entry = {
            "name": self.name,
            "state": self.state,
            "job": self.job,
            "digest": self.digest,
            "adopted": True if self.state == "Adopted" else None,
            "restarts": self.restarts or None,
            "startedAt": self.started_at,
            "finishedAt": self.finished_at,
            "message": self.message or None,
            "lastFailure": self.last_failure.wire() if self.last_failure else None,
        }
        return {key: value for key, value in entry.items() if value is not None}


def _age(pod: EndedEarly) -> str:
    return pod.created_at


def _reason(seen: StageSeen) -> str | None:
    if seen.short_of_nodes:
        return reasons.WAITING_FOR_NODES
    return reasons.ADOPTED if seen.outcome and seen.outcome.reason == reasons.ADOPTED else None


def _message(record: StageRecord, seen: StageSeen) -> str | None:
    if record.cause:
        return f"{record.cause.reason}: {record.cause.text}"
    if seen.state != "Pending":
        return None
    if seen.waiting_for or record.last_failure is None:
        return seen.waiting_for or None
    outcome = record.last_failure.outcome
    soon = "" if seen.lives else f" The next pod comes within {duration(record.delay)}."
    return f"starts again after {outcome.reason}: {outcome.text}{soon}"


@dataclass
class Run:
    """The chain of one revision of the spec."""

    stages: dict[Stage, StageRecord]
    counted: Json = field(default_factory=dict)  # status.restarts
    kept: Json = field(default_factory=dict)  # dataset, artifacts and so on, as they are written
    current: Stage | None = None
    progress: Json | None = None
    failure: Failure | None = None
    suspended: bool = False
    stopping: str | None = None  # the Job that goes away because of that

    @property
    def digests(self) -> dict[str, str]:
        return {stage: record.digest for stage, record in self.stages.items() if record.digest}

    @property
    def succeeded(self) -> bool:
        return self.failure is None and all(record.done for record in self.stages.values())

    def prepared(self, result: Json) -> None:
        """Prepare names every stage's digest, and the stages that an earlier run has done."""
        for stage, record in self.stages.items():
            record.digest = result["digests"][stage]
            if stage in result.get("done", []) and not record.done and stage != "publish":
                record.state = "Adopted"
        self.kept["dataset"] = pick(DatasetStatus, result["dataset"])

    def evaluated(self, result: Json) -> None:
        if "perplexity" in result:
            self.kept["evaluation"] = _evaluation(result)

    def published(self, result: Json) -> None:
        self.kept["artifacts"] = [pick(Artifact, artifact) for artifact in result["artifacts"]]
        self.kept["recommended"] = pick(Recommended, result["recommended"])
        self.kept["evaluation"] = _evaluation(result) | {
            key: value for key, value in self.kept.get("evaluation", {}).items() if key == "reportURI"
        }
        self.kept["releaseURI"] = result["releaseURI"]
        loss = {"loss": round(result["loss"], 4)} if result.get("loss") is not None else {}
        self.kept["progress"] = {"percent": 100, **loss}


def _evaluation(result: Json) -> Json:
    gates = [pick(GateStatus, gate) for gate in result.get("gates", [])]
    return pick(EvaluationStatus, {**result, "gates": gates})


def pick(model: type[Model], data: Json) -> Json:
    """The part of `data` that the API knows; raises ValidationError when something is missing."""
    known = {info.alias or key for key, info in model.model_fields.items()}
    return model.model_validate({key: value for key, value in data.items() if key in known}).wire()


def ended(job: Json) -> datetime | None:
    """When the run that the spec asks for came to its end."""
    status = job.get("status", {})
    if status.get("revision") != revision(job):
        return None
    last = next((kind for kind in ("Succeeded", "Failed") if is_condition_true(job, kind)), None)
    return parse_time(condition_in(status["conditions"], last)["lastTransitionTime"]) if last else None


def with_observed_generation(job: Json) -> Json:
    """The status of a run that has ended, where only what starts nothing anew has changed in the spec."""
    before: Json = job["status"]
    here = {"observedGeneration": generation(job)}
    return {**before, **here, "conditions": [{**each, **here} for each in before["conditions"]]}


def read_before(job: Json) -> Run:
    """The run as the status tells it; a new one when the spec asks for another."""
    status = job.get("status", {})
    suspended = status.get("phase") == "Suspended"
    if status.get("revision") != revision(job):
        return Run({stage: StageRecord(stage) for stage in STAGES}, suspended=suspended)
    entries = {entry["name"]: entry for entry in status.get("stages", [])}
    return Run(
        {stage: _record(stage, entries.get(stage, {})) for stage in STAGES},
        counted=status.get("restarts", {}),
        kept={key: status[key] for key in ("dataset", "evaluation") if key in status},
        suspended=suspended,
    )


def _record(stage: Stage, entry: Json) -> StageRecord:
    return StageRecord(
        stage,
        state=entry.get("state", "Pending"),
        job=entry.get("job"),
        digest=entry.get("digest"),
        restarts=entry.get("restarts", 0),
        started_at=entry.get("startedAt"),
        finished_at=entry.get("finishedAt"),
        message=entry.get("message"),
        last_failure=remembered(entry["lastFailure"]) if "lastFailure" in entry else None,
    )


def write_status(world: World, run: Run, now: datetime) -> Json:
    """The whole status."""
    job, before = world.job, world.job.get("status", {}).get("conditions", [])
    here = generation(job)
    status: Json = {
        "observedGeneration": here,
        "revision": revision(job),
        "phase": phase(run),
        "conditions": conditions(_said(run), before, here, now),
        "stages": [run.stages[stage].wire() for stage in STAGES],
        "restarts": count_restarts(world, run),
        **run.kept,
    }
    if progress := _progress(world, run):
        status["progress"] = progress
    return status


def _progress(world: World, run: Run) -> Json | None:
    """Of the stage that runs, or of the one that failed; what waits has none."""
    if run.current is None or run.stages[run.current].state == "Pending":
        return None
    return progress_status(run.progress, run.current, world.job.get("status", {}), world.since_write)


def count_restarts(world: World, run: Run) -> Json:
    """The Jobs count what they are charged; what was taken away is counted when it is seen."""
    charged = [counted_before(job).failed + int(job.get("status", {}).get("failed", 0)) for job in run_jobs(world)]
    taken = sum(record.newly_taken for record in run.stages.values())
    return {
        "preempted": run.counted.get("preempted", 0) + taken,
        "failed": max([run.counted.get("failed", 0), *charged]),
    }


def phase(run: Run) -> str:
    if run.failure:
        return "Failed"
    if run.succeeded:
        return "Succeeded"
    if run.suspended:
        return "Suspended"
    current = run.current or "prepare"
    if current == "prepare" and run.stages["prepare"].state == "Pending":
        return "Pending"
    return PHASES[current]


def _said(run: Run) -> list[Condition]:
    said = [_stage_said(run, stage) for stage in STAGES if _is_reached(run, stage)]
    if run.failure:
        reason, message = run.failure.reason, run.failure.message
        return [*said, Condition("Succeeded", False, reason, message), Condition("Failed", True, reason, message)]
    if run.succeeded:
        recommended = run.kept.get("recommended", {})
        return [*said, Condition("Succeeded", True, reasons.COMPLETED, f"recommended: {recommended.get('uri', '')}")]
    rests = [Condition("Suspended", True, reasons.SUSPENDED, _suspended_message(run))] if run.suspended else []
    return [*said, *rests, Condition("Succeeded", False, phase(run), _current_message(run))]


def _suspended_message(run: Run) -> str:
    stopping = f"Job {run.stopping} is being stopped, its pod writes a checkpoint first. " if run.stopping else ""
    return f"{stopping}Set spec.suspend to false to go on."


def _current_message(run: Run) -> str:
    return (run.stages[run.current or "prepare"].message) or ""


def _is_reached(run: Run, stage: Stage) -> bool:
    return run.stages[stage].done or stage == run.current


def _stage_said(run: Run, stage: Stage) -> Condition:
    record = run.stages[stage]
    if record.done:
        taken_over = record.state == "Adopted" or record.reason == reasons.ADOPTED
        return Condition(CONDITIONS[stage], True, reasons.ADOPTED if taken_over else reasons.COMPLETED)
    if run.failure:
        return Condition(CONDITIONS[stage], False, run.failure.reason, run.failure.message)
    reason = record.reason if record.reason == reasons.WAITING_FOR_NODES else record.state
    return Condition(CONDITIONS[stage], False, reason, record.message or "")
