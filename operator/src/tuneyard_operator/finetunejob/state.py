"""What the policies decide from: the run as its status tells it, brought up to date with its Jobs and pods."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from tuneyard_api.contracts.termination import Termination
from tuneyard_api.kinds.finetunejob import FINE_TUNE_JOB, FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import Restarts
from tuneyard_api.stages import chain
from tuneyard_api.validation import Problem, explain, read_spec
from tuneyard_operator.finetunejob.children import counted_before
from tuneyard_operator.finetunejob.observe import StageView, World, run_jobs, view_stage
from tuneyard_operator.finetunejob.run import Run, StageRecord
from tuneyard_operator.settings import Settings


@dataclass(frozen=True)
class State:
    """One observation of a FineTuneJob. Each part is read when a policy first asks for it."""

    world: World
    settings: Settings
    now: datetime

    @cached_property
    def _read(self) -> tuple[FineTuneJobSpec | None, list[Problem]]:
        return read_spec(FINE_TUNE_JOB, FineTuneJobSpec, self.world.job)

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the spec."""
        return self._read[1]

    @property
    def spec(self) -> FineTuneJobSpec:
        """The spec, which is valid where the policy `invalid_spec` does not apply."""
        spec, found = self._read
        if spec is None:
            raise ValueError(explain(found))
        return spec

    @cached_property
    def before(self) -> Run:
        """The run as the status tells it."""
        return read_run(self.world, self.spec)

    @cached_property
    def run(self) -> Run:
        """The run as its Jobs and pods show it."""
        run = self.before._replace(suspended=self.spec.suspend)
        updated = follow(self.world, run, self.now)
        return updated._replace(restarts=count_restarts(self.world, updated))

    @cached_property
    def current(self) -> StageRecord:
        """The first stage that is not done: there is one, because the policy `succeeded` does not apply."""
        return next(record for record in self.run.stages.values() if not record.is_done)

    @cached_property
    def view(self) -> StageView | None:
        """The Job and the pods of the current stage."""
        return view_stage(self.world, self.current.name)


def read_run(world: World, spec: FineTuneJobSpec) -> Run:
    """The run as the status tells it; a new one where the spec asks for another."""
    status = world.status
    suspended = status.phase == "Suspended"
    if status.revision != world.revision:
        new = {stage.name: StageRecord(stage) for stage in chain(spec)}
        return Run(new, output_uri=spec.output.uri, suspended=suspended)
    entries = {entry.name: entry for entry in status.stages}
    return Run(
        {stage.name: StageRecord.from_status(stage, entries.get(stage.name)) for stage in chain(spec)},
        output_uri=spec.output.uri,
        suspended=suspended,
        restarts=status.restarts or Restarts(),
        dataset=status.dataset,
        fit=status.fit,
        training=status.training,
        evaluation=status.evaluation,
    )


def follow(world: World, run: Run, now: datetime) -> Run:
    """Goes along the chain, past the stages that have succeeded, to the current one."""
    for stage in list(run.stages):
        record = run.stages[stage]
        if record.is_done:
            continue
        view = view_stage(world, stage)
        if view is None:  # the status may show a Job that somebody has deleted
            return run.with_stage(record.reset(now))
        record = record.update_from(view)
        if view.state != "Succeeded":
            return run.with_stage(record).with_failed_report(record)
        if is_result_lost(record, view.termination):
            return run.with_stage(record.reset(now))
        run = run.with_stage(record).concluded(record, view.termination)
        if run.failure:
            return run
    return run


def is_result_lost(record: StageRecord, termination: Termination | None) -> bool:
    """Whether a stage has succeeded, but its pod was gone before its report was read, and the run needs that."""
    return record.definition.report_required and termination is None


def count_restarts(world: World, run: Run) -> Restarts:
    """Each Job counts the pods that it is charged; preempted pods are counted as they are observed."""
    charged = [counted_before(job).failed + int(job.get("status", {}).get("failed", 0)) for job in run_jobs(world)]
    preempted = sum(record.newly_preempted for record in run.stages.values())
    return Restarts(
        preempted=run.restarts.preempted + preempted,
        failed=max([run.restarts.failed, *charged]),
    )
