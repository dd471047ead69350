"""The chain of a FineTuneJob is computed from its spec: what it does not need has no stage."""

from typing import Any, Final

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


def without(part: str, field: str) -> Any:
    """A property for State.spec that empties a field which the schema requires."""

    def spec(state: State) -> FineTuneJobSpec:
        whole = FineTuneJobSpec.model_validate(state.world.job["spec"])
        return whole.model_copy(update={part: getattr(whole, part).model_copy(update={field: []})})

    return property(spec)


def run_to_end(cluster: FineTuning) -> Json:
    for _ in range(MAX_RECONCILES):
        cluster.reconcile()
        if cluster.status["phase"] in ("Succeeded", "Failed"):
            return cluster.job
        cluster.controllers_run()
    raise AssertionError(cluster.job)


@pytest.mark.parametrize(
    ("part", "field", "chain", "published"),
    [
        ("dataset", "train", WITHOUT_TRAINING, "recommended: s3://out/runs/"),
        ("export", "formats", WITHOUT_EXPORT, "published: s3://out/runs/"),
    ],
)
def test_shorter_chain_succeeds(
    part: str, field: str, chain: tuple[Stage, ...], published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(State, "spec", without(part, field))
    cluster = FineTuning()
    cluster.chain = chain
    job = run_to_end(cluster)
    assert job["status"]["phase"] == "Succeeded", job["status"]
    assert [stage["name"] for stage in job["status"]["stages"]] == list(chain)
    assert stages_of(cluster.jobs) == list(chain)
    assert condition(job, "Succeeded")["message"].startswith(published)
    kinds = {found["type"] for found in job["status"]["conditions"]}
    assert ("Trained" in kinds, "Exported" in kinds) == ("train" in chain, "export" in chain)
    FineTuneJobStatus.model_validate(job["status"])


def test_report_without_a_stage_of_the_chain_fails() -> None:
    cluster = FineTuning()
    cluster.chain = WITHOUT_TRAINING
    job = run_to_end(cluster)
    assert condition(job, "Failed")["reason"] == "StageCrashed"
    assert "'train' is missing" in condition(job, "Failed")["message"]
