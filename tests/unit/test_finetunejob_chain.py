"""The chain of a FineTuneJob is computed from its spec: what it does not need has no stage."""

from typing import Final

import pytest

from support.finetuning import FineTuning, stages_of
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import Stage
from tuneyard_operator.finetunejob.state import State
from tuneyard_operator.machinery.objects import Json, condition

MAX_RECONCILES: Final = 60

WITHOUT_TRAINING: Final[tuple[Stage, ...]] = ("prepare", "export", "evaluate", "publish")
WITHOUT_EXPORT: Final[tuple[Stage, ...]] = ("prepare", "train", "publish")


NOT_TRAINED: Final[Json] = {"training": {"method": "none"}}
WITHOUT_ROWS: Final[tuple[Stage, ...]] = ("prepare", "export", "publish")


def without_formats(state: State) -> FineTuneJobSpec:
    """State.spec without formats, which the schema requires."""
    whole = FineTuneJobSpec.model_validate(state.world.job["spec"])
    return whole.model_copy(update={"export": whole.export.model_copy(update={"formats": []})})


def run_to_end(cluster: FineTuning) -> Json:
    for _ in range(MAX_RECONCILES):
        cluster.reconcile()
        if cluster.status["phase"] in ("Succeeded", "Failed"):
            return cluster.job
        cluster.controllers_run()
    raise AssertionError(cluster.job)


def succeeds(cluster: FineTuning, chain: tuple[Stage, ...], published: str) -> None:
    cluster.chain = chain
    job = run_to_end(cluster)
    assert job["status"]["phase"] == "Succeeded", job["status"]
    assert [stage["name"] for stage in job["status"]["stages"]] == list(chain)
    assert stages_of(cluster.jobs) == list(chain)
    assert condition(job, "Succeeded")["message"].startswith(published)
    kinds = {found["type"] for found in job["status"]["conditions"]}
    assert ("Trained" in kinds, "Exported" in kinds) == ("train" in chain, "export" in chain)
    FineTuneJobStatus.model_validate(job["status"])


@pytest.mark.parametrize(
    ("dataset", "chain"), [({"train": [{"uri": "s3://data/a.jsonl"}]}, WITHOUT_TRAINING), ({}, WITHOUT_ROWS)]
)
def test_chain_without_training(dataset: Json, chain: tuple[Stage, ...]) -> None:
    succeeds(FineTuning(dataset=dataset, **NOT_TRAINED), chain, "recommended: s3://out/runs/")


def test_chain_without_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "spec", property(without_formats))
    succeeds(FineTuning(), WITHOUT_EXPORT, "published: s3://out/runs/")


def test_report_without_a_stage_of_the_chain_fails() -> None:
    cluster = FineTuning()
    cluster.chain = WITHOUT_TRAINING
    job = run_to_end(cluster)
    assert condition(job, "Failed")["reason"] == "StageCrashed"
    assert "'train' is missing" in condition(job, "Failed")["message"]
