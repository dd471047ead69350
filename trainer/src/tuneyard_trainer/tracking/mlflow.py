"""The run of a training in an MLflow server: a thread sends what is logged, so that the server delays nothing.

A run is found by a tag with the digest of the train stage: a resumed training goes on with the run that it has. Values
that the server has already are not sent again.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, Self

from tuneyard_api.contracts.requests import MetricsLogged
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import MlflowStatus
from tuneyard_api.names import GROUP, LABEL_FINETUNEJOB
from tuneyard_api.stages import STAGES
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.tracking.mlflow_api import MlflowApi, MlflowError, Refused, Run, RunState, Value, settings_from

TAG_RUN: Final = f"{GROUP}/train"
TAG_OUTPUT: Final = f"{GROUP}/output"
SEND_SECONDS: Final = 5.0
LONGEST_WAIT: Final = 60.0
END_SECONDS: Final = 15.0
"""What the end of a training waits at most."""
BATCH: Final = 900  # values of a request
WAITING: Final = 100_000
"""Values that wait at most for a server that is away; the oldest ones go."""
PARAMS: Final = 100  # of a request
PARAM_CHARACTERS: Final = 500  # as all versions of MLflow take them
LATE: Final = "the server had not answered when the training ended"
FINAL: Final = ("FINISHED", "FAILED", "KILLED")


class MlflowTracker:
    """One run. `log` and `end` raise nothing."""

    def __init__(
        self, context: StageContext, experiment: str, api: MlflowApi | None, problem: str | None = None
    ) -> None:
        self._context, self._experiment, self._api = context, experiment, api
        self._waiting: deque[Value] = deque()
        self._changed = threading.Condition()
        self._latest: dict[str, int] = {}  # the last step of each metric that the server had before this pod
        self._run: Run | None = None
        self._lost = 0
        self._problem, self._last_problem = problem, problem
        self._state: RunState | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        if api:
            self._thread.start()
        else:
            context.log.warning("MLflow gets no metrics: %s", problem)

    @classmethod
    def of(cls, context: StageContext) -> Self | None:
        """None where the spec names no server. What is wrong with the Secret does not keep a job from training."""
        tracking = context.spec.training.tracking
        mlflow = tracking.mlflow if tracking else None
        if mlflow is None:
            return None
        experiment = mlflow.experiment or context.name
        try:
            settings = settings_from(context.tracking, f"Secret {mlflow.secret_ref.name}")
            return cls(context, experiment, MlflowApi(settings))
        except MlflowError as error:
            return cls(context, experiment, None, str(error))

    def log(self, event: MetricsLogged) -> None:
        """Leaves the values for the thread."""
        now = _milliseconds()
        with self._changed:
            values = (Value(key, value, event.step, now) for key, value in event.metrics.items())
            self._waiting.extend(value for value in values if self._is_new(value))
            while len(self._waiting) > WAITING:
                self._waiting.popleft()
                self._lost += 1

    def end(self, state: RunState) -> MlflowStatus:
        """Sends what waits, once, and says what the server has not got."""
        with self._changed:
            self._state = self._state or state
            self._changed.notify()
        if self._api:
            self._thread.join(END_SECONDS)
        with self._changed:
            lost = self._lost + len(self._waiting)
            late = LATE if self._thread.is_alive() else None
            return MlflowStatus(
                url=self._api.url(self._run) if self._api and self._run else None,
                run_id=self._run.info.run_id if self._run else None,
                lost=lost,
                message=late or self._problem or (self._last_problem if lost else None),
            )

    def _work(self) -> None:
        wait = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._state is not None, wait)
                state = self._state
            try:
                self._send()
                if state and self._run and self._api:
                    self._api.update_run(self._run.info.run_id, state, _milliseconds() if state in FINAL else None)
                self._told(None)
                wait = SEND_SECONDS
            except MlflowError as error:
                self._told(str(error))
                wait = min(max(2 * wait, SEND_SECONDS), LONGEST_WAIT)
            if state:
                return

    def _send(self) -> None:
        """Sends what waits. Raises MlflowError; what the server has got by then does not wait any more."""
        assert self._api  # noqa: S101 - else there is no thread
        self._run = self._run or self._connect(self._api)
        while batch := self._next():
            try:
                self._api.log(self._run.info.run_id, batch)
            except Refused:
                # The same values would be refused again; perhaps somebody has deleted the run.
                self._run = None
                self._sent(len(batch), lost=True)
                raise
            self._sent(len(batch))

    def _next(self) -> list[Value]:
        with self._changed:
            return list(islice(self._waiting, BATCH))

    def _sent(self, count: int, *, lost: bool = False) -> None:
        with self._changed:
            for _ in range(min(count, len(self._waiting))):
                self._waiting.popleft()
            self._lost += count if lost else 0

    def _connect(self, api: MlflowApi) -> Run:
        """The run that the training has in the server already, or a new one."""
        context, digest = self._context, self._context.digests["train"]
        experiment = api.experiment(self._experiment)
        run = api.find_run(experiment, TAG_RUN, digest)
        self._leave_out({metric.key: metric.step for metric in run.data.metrics} if run else {})
        if run:
            api.update_run(run.info.run_id, "RUNNING", None)
        else:
            tags = {LABEL_FINETUNEJOB: context.name, TAG_RUN: digest, TAG_OUTPUT: context.uri("train")}
            run = api.create_run(experiment, context.name, tags, _milliseconds())
        api.log(run.info.run_id, params=parameters(context.spec))
        context.progress.track(api.url(run))
        context.log.info("MLflow: %s", api.url(run))
        return run

    def _leave_out(self, latest: Mapping[str, int]) -> None:
        """Steps between a checkpoint and the end of the pod before are done twice, with the same values."""
        with self._changed:
            self._latest = dict(latest)
            self._waiting = deque(filter(self._is_new, self._waiting))

    def _is_new(self, value: Value) -> bool:
        return value.step > self._latest.get(value.key, -1)

    def _told(self, problem: str | None) -> None:
        """Writes a change into the log, not every try."""
        if problem and not self._problem:
            self._context.log.warning("MLflow: %s. The training goes on; what it has logged waits.", problem)
        elif self._problem and not problem:
            self._context.log.info("MLflow answers again.")
        self._problem, self._last_problem = problem, problem or self._last_problem


def parameters(spec: FineTuneJobSpec) -> dict[str, str]:
    """What the training depends on, as parameters of a run: model.uri, training.lora.rank and so on."""
    document = {"model": {"uri": spec.model.uri}, "training": STAGES["train"].spec_part(spec)["training"]}
    document["dataset"] = {"train": [source.uri for source in spec.dataset.train]}
    return dict(islice(_flat(document), PARAMS))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            text = item if isinstance(item, str) else json.dumps(item)
            yield f"{prefix}{key}", text[:PARAM_CHARACTERS]


def _milliseconds() -> int:
    return int(time.time() * 1000)
