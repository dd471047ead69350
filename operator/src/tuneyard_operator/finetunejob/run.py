"""A run of a FineTuneJob: the chain of one revision of its spec.

Runs and their stages are values: each function returns a new one.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, Self

from pydantic import ValidationError

from tuneyard_api import reasons
from tuneyard_api.contracts.results import REPORT_FILES, stage_uri
from tuneyard_api.contracts.termination import (
    EvaluateReport,
    PrepareReport,
    PublishReport,
    StageReport,
    Termination,
    TrainReport,
)
from tuneyard_api.durations import duration
from tuneyard_api.kinds.finetunejob_status import (
    Artifact,
    DatasetStatus,
    EvaluationStatus,
    FitStatus,
    Progress,
    Recommended,
    Restarts,
    StageState,
    StageStatus,
    TrainingStatus,
)
from tuneyard_api.names import Stage
from tuneyard_api.stages import StageDefinition
from tuneyard_operator.finetunejob.failures import EndedEarly, backoff, cause, from_status
from tuneyard_operator.finetunejob.observe import StageView
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import name


class Failure(NamedTuple):
    """Why a run has failed for good."""

    reason: str
    message: str


class StageRecord(NamedTuple):
    """One stage of a run: an entry of status.stages, and below it what only the present observation tells."""

    definition: StageDefinition
    state: StageState = "Pending"
    job: str | None = None
    digest: str | None = None
    restarts: int = 0
    reruns: int = 0
    out_of_memory: int = 0  # pods that were killed for it, before the present Job
    started_at: str | None = None
    finished_at: str | None = None
    ran_seconds: int = 0  # of earlier Jobs
    message: str | None = None
    last_failure: EndedEarly | None = None

    reason: str | None = None  # what it waits for, in one word; or Adopted
    cause: Termination | None = None  # why its Job has failed
    preempted_pods: tuple[str, ...] = ()
    newly_preempted: int = 0  # pods, since the last status
    backoff: float = 0.0  # seconds that the Job controller may wait before the next pod

    @property
    def name(self) -> Stage:
        return self.definition.name

    @property
    def is_done(self) -> bool:
        return self.state in ("Succeeded", "Adopted")

    def reset(self, now: datetime, message: str | None = None) -> Self:
        """The stage without a Job: it has none yet, or the one that it has is deleted before the stage is done."""
        return self._replace(
            state="Pending",
            job=None,
            started_at=None,
            finished_at=None,
            ran_seconds=self.elapsed(now),
            message=message,
            last_failure=None,
            reason=None,
            cause=None,
        )

    def elapsed(self, now: datetime) -> int:
        """Seconds that the Jobs of the stage ran, the present one until it ended or until now."""
        if not self.started_at:
            return self.ran_seconds
        until = parse_time(self.finished_at) if self.finished_at else now
        return self.ran_seconds + max(0, int((until - parse_time(self.started_at)).total_seconds()))

    def waits(self, reason: str, message: str) -> Self:
        return self._replace(reason=reason, message=message)

    def update_from(self, view: StageView) -> Self:
        """The stage as its Job and pods show it now."""
        pods = [*view.ended_early, *filter(None, [self.last_failure])]
        last = max(pods, key=lambda pod: pod.created_at, default=None)
        # Each pod is counted once: those that were created after the last one that was counted.
        counted_until = self.last_failure.created_at if self.last_failure else ""
        new = [pod for pod in view.ended_early if pod.created_at > counted_until]
        restarts = self.restarts + len(new)
        if view.state in ("Succeeded", "Failed"):  # then the Job's count has those that no operator saw
            restarts = max(restarts, view.before.restarts + view.failed)
        updated = self._replace(
            state=view.state,
            job=name(view.job),
            restarts=restarts,
            reruns=max(self.reruns, view.before.reruns),
            out_of_memory=max(self.out_of_memory, view.before.out_of_memory),
            started_at=view.started_at,
            finished_at=view.finished_at,
            last_failure=last,
            reason=_reason(view, last),
            cause=cause(view.job, last) if view.state == "Failed" else None,
            preempted_pods=view.preempted_pods,
            newly_preempted=sum(pod.is_preempted for pod in new),
            backoff=backoff(restarts - view.before.restarts),
        )
        return updated._replace(message=_message(updated, view))

    def status(self) -> StageStatus:
        return StageStatus(
            name=self.name,
            state=self.state,
            job=self.job,
            digest=self.digest,
            adopted=True if self.state == "Adopted" else None,
            restarts=self.restarts or None,
            reruns=self.reruns or None,
            out_of_memory=self.out_of_memory or None,
            started_at=self.started_at,
            finished_at=self.finished_at,
            ran_seconds=self.ran_seconds or None,
            message=self.message or None,
            last_failure=self.last_failure.status() if self.last_failure else None,
        )

    @classmethod
    def from_status(cls, definition: StageDefinition, entry: StageStatus | None) -> Self:
        """Reads what `status` wrote."""
        if entry is None:
            return cls(definition)
        return cls(
            definition,
            state=entry.state,
            job=entry.job,
            digest=entry.digest,
            restarts=entry.restarts or 0,
            reruns=entry.reruns or 0,
            out_of_memory=entry.out_of_memory or 0,
            started_at=entry.started_at,
            finished_at=entry.finished_at,
            ran_seconds=entry.ran_seconds or 0,
            message=entry.message,
            last_failure=from_status(entry.last_failure) if entry.last_failure else None,
        )


def _reason(view: StageView, last: EndedEarly | None) -> str | None:
    if view.state != "Pending":
        return reasons.ADOPTED if view.termination and view.termination.reason == reasons.ADOPTED else None
    if view.waiting_for or last is None:
        return view.waiting_reason
    return last.termination.reason


def _message(record: StageRecord, view: StageView) -> str | None:
    if record.cause:
        return f"{record.cause.reason}: {record.cause.text}"
    if view.state != "Pending":
        return None
    if view.waiting_for or record.last_failure is None:
        return view.waiting_for or None
    ended = record.last_failure.termination
    next_pod = "" if view.is_active else f" The next pod starts within {duration(record.backoff)}."
    return f"restarts after {ended.reason}: {ended.text}{next_pod}"


class Run(NamedTuple):
    """The chain of one revision of the spec, and what its stages have reported."""

    stages: Mapping[Stage, StageRecord]  # in the order of the chain
    output_uri: str = ""
    suspended: bool = False
    restarts: Restarts = Restarts()
    dataset: DatasetStatus | None = None
    fit: FitStatus | None = None
    training: TrainingStatus | None = None
    evaluation: EvaluationStatus | None = None
    artifacts: tuple[Artifact, ...] | None = None
    recommended: Recommended | None = None
    release_uri: str | None = None
    progress: Progress | None = None  # at the end of the run
    failure: Failure | None = None
    stopping: str | None = None  # the Job that is deleted because the run is suspended

    @property
    def digests(self) -> dict[str, str]:
        return {stage: record.digest for stage, record in self.stages.items() if record.digest}

    @property
    def current(self) -> StageRecord | None:
        """The first stage that is not done."""
        return next((record for record in self.stages.values() if not record.is_done), None)

    @property
    def is_successful(self) -> bool:
        return self.failure is None and self.current is None

    def with_stage(self, *records: StageRecord) -> Self:
        return self._replace(stages={**self.stages, **{record.name: record for record in records}})

    def failed_at(self, record: StageRecord, reason: str, message: str) -> Self:
        """The run after a failure that the stage's Job knows nothing of."""
        failed = record._replace(state="Failed", message=f"{reason}: {message}")
        return self.with_stage(failed)._replace(failure=Failure(reason, message))

    def concluded(self, record: StageRecord, termination: Termination | None) -> Self:
        """The run after a stage has succeeded: with its report, or failed where that cannot be read."""
        if termination and termination.reason == reasons.RESULT_TOO_LARGE:
            return self.failed_at(record, termination.reason, termination.text)
        try:
            return self.with_report(_read_report(record.definition, termination))
        except (KeyError, ValidationError) as error:
            message = (
                f"The result of {record.name} cannot be read: {_problems(error)}. "
                "Are the images of operator and trainer of the same version?"
            )
            return self.failed_at(record, reasons.STAGE_CRASHED, message)

    def with_failed_report(self, record: StageRecord) -> Self:
        """The run with what a failed stage has reported: a training its curve, an evaluation its figures."""
        ended = record.last_failure.termination if record.last_failure else None
        try:
            report = _read_report(record.definition, ended) if ended and ended.result else None
        except ValidationError:
            return self
        return self.with_report(report) if isinstance(report, EvaluateReport | TrainReport) else self

    def with_report(self, report: StageReport | None) -> Self:
        """Raises KeyError where the report does not fit the chain."""
        match report:
            case PrepareReport():
                return self._prepared(report)
            case TrainReport():
                return self._replace(training=report.training)
            case EvaluateReport():
                return self._evaluated(report)
            case PublishReport():
                return self._published(report)
        return self

    def _prepared(self, report: PrepareReport) -> Self:
        """Prepare reports every stage's digest, and the stages whose output exists already."""
        records = [record._replace(digest=report.digests[stage]) for stage, record in self.stages.items()]
        reused = [
            record._replace(state="Adopted")
            for record in records
            if record.name in report.done and record.definition.adoptable and not record.is_done
        ]
        run = self.with_stage(*records).with_stage(*reused)
        dataset = DatasetStatus(**dict(report.dataset), report_uri=run._report_uri("prepare"))
        return run._replace(dataset=dataset, fit=report.fit)

    def _evaluated(self, report: EvaluateReport) -> Self:
        uri = self._report_uri("evaluate")
        return self._replace(evaluation=EvaluationStatus(**dict(report), report_uri=uri))

    def _published(self, report: PublishReport) -> Self:
        run = self._evaluated(report.evaluation) if report.evaluation else self
        artifacts = {
            artifact.format: Artifact(uri=self._uri("export", artifact.format), **dict(artifact))
            for artifact in report.artifacts
        }
        recommended = None
        if report.recommended:
            chosen = artifacts[report.recommended.format]
            recommended = Recommended(
                format=chosen.format, uri=chosen.uri, digest=chosen.digest, reason=report.recommended.reason
            )
        if report.training and not run.training:  # an earlier run has trained
            run = run._replace(training=report.training)
        loss = round(report.training.loss, 4) if report.training and report.training.loss is not None else None
        return run._replace(
            artifacts=tuple(artifacts.values()),
            recommended=recommended,
            release_uri=self._report_uri("publish"),
            progress=Progress(percent=100, loss=loss),
        )

    def _uri(self, stage: Stage, *parts: str) -> str:
        return stage_uri(self.output_uri, self.digests[stage], stage, *parts)

    def _report_uri(self, stage: Stage) -> str:
        return self._uri(stage, REPORT_FILES[stage])


def _read_report(definition: StageDefinition, termination: Termination | None) -> StageReport | None:
    """The report of a stage; None where it has none, or one that is not needed is not there.

    Raises:
        ValidationError: it is not what the stage reports in this version.
    """
    result = termination.result if termination else None
    if definition.report is None or (result is None and not definition.report_required):
        return None
    return definition.report.model_validate(result)


def _problems(error: KeyError | ValidationError) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
