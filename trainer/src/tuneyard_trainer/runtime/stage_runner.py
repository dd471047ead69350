"""The frame around every stage: adopt what is there, run, commit last, say how it ended."""

import importlib
import json
import logging
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tuneyard_api import names, reasons
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_store.errors import ObjectNotFound, StoreError
from tuneyard_store.store import Store
from tuneyard_trainer.runtime.digests import IDENTITIES
from tuneyard_trainer.runtime.errors import StageError, from_store, sentence
from tuneyard_trainer.runtime.progress import Progress
from tuneyard_trainer.runtime.rendezvous import ALONE, Group

Json = dict[str, Any]

MARK: Final = "stage.json"
TERMINATION_BYTES: Final = 4096  # what the kubelet keeps of a termination message
# What the result can do without, in this order, when it is too long for a termination message; stage.json holds all.
EXPENDABLE: Final = ("dataset", "gates", "perplexity")


@dataclass
class StageContext:
    """All that a stage is given."""

    stage: names.Stage
    name: str
    """The FineTuneJob's."""
    spec: FineTuneJobSpec
    store: Store
    work: Path
    digests: dict[str, str] = field(default_factory=dict)
    threads: int | None = None
    group: Group = ALONE
    """The pods that do this stage together."""
    progress: Progress = field(default_factory=lambda: Progress(""))
    stopping: threading.Event = field(default_factory=threading.Event)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("tuneyard"))

    def uri(self, stage: str, *parts: str) -> str:
        """Where something of a stage of this run lies."""
        run = f"{self.spec.output.uri.rstrip('/')}/runs/{self.digests[stage]}/{stage}"
        return "/".join([run, *parts])

    def mark(self, stage: str) -> Json | None:
        """The result of a stage that is committed; None when it is not."""
        try:
            found: Json = json.loads(self.store.read(self.uri(stage, MARK)))["result"]
        except ObjectNotFound:
            return None
        return found

    def result_of(self, stage: str) -> Json:
        """The result of an earlier stage.

        Raises:
            StageError: it is not there, though the operator starts stages in order.
        """
        result = self.mark(stage)
        if result is None:
            uri = self.uri(stage, MARK)
            raise StageError(
                reasons.ARTIFACT_NOT_FOUND, f"{uri} does not exist", "Apply the job again under another name."
            )
        return result

    def commit(self, result: Json) -> None:
        """Writes the commit mark; everything else that the stage wrote is there already."""
        version = IDENTITIES[self.stage].version
        mark = {"stage": self.stage, "version": version, "digest": self.digests[self.stage], "result": result}
        self.store.write(self.uri(self.stage, MARK), json.dumps(mark, indent=1).encode(), "application/json")


class Outcome(NamedTuple):
    """How a stage ended."""

    exit_code: int
    reason: str
    message: str
    advice: str = ""
    result: Json | None = None

    @property
    def succeeded(self) -> bool:
        return self.exit_code == names.EXIT_DONE


def run_stage(context: StageContext) -> Outcome:
    """Runs one stage to its end, whatever that is."""
    try:
        return _run(context)
    except Exception as error:
        return failure(error, context.log)


def _run(context: StageContext) -> Outcome:
    # The module is imported here, so that a stage loads no more than it needs.
    module = importlib.import_module(f"tuneyard_trainer.stages.{context.stage}")
    if context.stage == "prepare":
        context.digests = module.identify(context)
    result = context.mark(context.stage)
    if result is not None:
        context.log.info("%s was done before: %s", context.stage, context.uri(context.stage))
        outcome = Outcome(names.EXIT_DONE, reasons.ADOPTED, f"Taken over from {context.uri(context.stage)}.")
    else:
        result = module.run(context)
        if context.group.leads:
            context.commit(result)
        outcome = Outcome(names.EXIT_DONE, reasons.COMPLETED, f"Written to {context.uri(context.stage)}.")
    context.progress.update(percent=100, message="done")
    if context.stage == "prepare":
        result = {"digests": context.digests, "done": stages_done(context)} | result
    return outcome._replace(result=result)


def stages_done(context: StageContext) -> list[str]:
    """The stages after prepare that are committed, up to the first that is not."""
    done: list[str] = []
    for stage in names.STAGES[1:]:
        if not context.store.exists(context.uri(stage, MARK)):
            break
        done.append(stage)
    return done


def failure(error: Exception, log: logging.Logger) -> Outcome:
    """How a stage ends that raised this: by name when we have one, else as a crash with its last words."""
    if isinstance(error, StoreError):
        error = from_store(error)
    if isinstance(error, StageError):
        log.error("%s: %s", error.reason, error)
        return Outcome(error.exit_code, error.reason, sentence(error.message), sentence(error.advice), error.result)
    log.error("the stage crashed", exc_info=error)
    last = traceback.format_exception_only(error)[-1].strip()
    return Outcome(names.EXIT_UNKNOWN, reasons.STAGE_CRASHED, sentence(last), "See the pod's log.")


def termination_message(outcome: Outcome, limit: int = TERMINATION_BYTES) -> bytes:
    """The outcome as JSON of at most `limit` bytes: whole JSON, with less in it when there is too much."""
    result = dict(outcome.result) if outcome.result is not None else None
    texts = {"message": outcome.message, "advice": outcome.advice}

    def encoded() -> bytes:
        document = {"reason": outcome.reason, **{key: text for key, text in texts.items() if text}}
        return json.dumps(document | ({} if result is None else {"result": result}), separators=(",", ":")).encode()

    for key in EXPENDABLE:
        if len(encoded()) > limit and result is not None:
            result.pop(key, None)
    for key in ("message", "advice"):
        while (excess := len(encoded()) - limit) > 0 and len(texts[key]) > 200:
            texts[key] = shortened(texts[key], max(200, len(texts[key]) - max(1, excess // 12)))
    if len(encoded()) > limit:
        result = None
    return encoded()


def shortened(text: str, length: int) -> str:
    """The beginning and the end of a text, `length` characters in all."""
    half = (length - 5) // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


def digests_from(environ: Mapping[str, str]) -> dict[str, str]:
    """The digests that prepare has computed, as the operator hands them on."""
    digests: dict[str, str] = json.loads(environ.get(names.ENV_DIGESTS) or "{}")
    return digests
