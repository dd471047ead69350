"""Digests of stages: known from the inputs, before anything has run. Pure functions.

A stage's digest covers its name, its version, the part of the spec that it reads and the digests of the stages it
builds on. Resources, credentials, names and output.uri are in none: they do not change what is made.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tuneyard_api.contracts.artifact import canonical_json
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.names import STAGES, Stage

Json = dict[str, Any]


class Identity(NamedTuple):
    """What a stage's output depends on."""

    version: int
    """Raised when the same input begins to give another output."""
    spec_part: Callable[[FineTuneJobSpec], Json]
    after: tuple[Stage, ...] = ()


def _prepare_part(spec: FineTuneJobSpec) -> Json:
    training = {"maxLength": spec.training.max_length, "seed": spec.training.seed}
    return {"model": spec.model.wire(), "dataset": spec.dataset.wire(), "training": training}


def _train_part(spec: FineTuneJobSpec) -> Json:
    training = {name: value for name, value in spec.training.wire().items() if name != "checkpoints"}
    return {"training": training}


IDENTITIES: Final[dict[Stage, Identity]] = {
    "prepare": Identity(1, _prepare_part),
    "train": Identity(1, _train_part, ("prepare",)),
    "export": Identity(1, lambda spec: {"export": spec.export.wire()}, ("train",)),
    "evaluate": Identity(1, lambda spec: {"evaluation": spec.evaluation.wire()}, ("prepare", "export")),
    "publish": Identity(1, lambda spec: {}, ("prepare", "train", "export", "evaluate")),
}


def stage_digests(spec: FineTuneJobSpec, sources: Mapping[str, Any]) -> dict[str, str]:
    """The digest (64 hex digits) of every stage.

    Args:
        sources: what prepare reads: the model's files and the data's content, as JSON.
    """
    digests: dict[str, str] = {}
    for stage in STAGES:
        identity = IDENTITIES[stage]
        document = {
            "stage": stage,
            "version": identity.version,
            "spec": identity.spec_part(spec),
            "inputs": {name: digests[name] for name in identity.after} or dict(sources),
        }
        digests[stage] = hashlib.sha256(canonical_json(document)).hexdigest()
    return digests
