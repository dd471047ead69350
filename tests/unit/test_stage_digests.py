"""The digests of the stages. A digest that changes without need makes every user train twice."""

from typing import Any

import pytest

from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES, stage_digests

Json = dict[str, Any]

MINIMAL: Json = {
    "model": {"uri": "s3://models/a"},
    "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
    "output": {"uri": "s3://artifacts/a"},
}
SOURCES: Json = {"model": [["config.json", 10, "etag"]], "data": {"train-0": [["s3://data/a.jsonl", "00"]]}}


def digests(sources: Json = SOURCES, **changes: Any) -> dict[Stage, str]:
    return stage_digests(FineTuneJobSpec.model_validate(MINIMAL | changes), sources)


def changed(sources: Json = SOURCES, **changes: Any) -> list[str]:
    """The stages that would run again."""
    before, after = digests(), digests(sources, **changes)
    return [stage for stage in STAGES if before[stage] != after[stage]]


EVERYTHING = list(STAGES)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": {"uri": "s3://models/b"}}, EVERYTHING),
        ({"model": {"uri": "s3://models/a", "chatTemplate": "x"}}, EVERYTHING),
        ({"dataset": {"train": [{"uri": "s3://data/b.jsonl"}]}}, EVERYTHING),
        ({"dataset": MINIMAL["dataset"] | {"clean": {"minRows": 1}}}, EVERYTHING),
        ({"training": {"maxLength": 64}}, EVERYTHING),
        ({"training": {"seed": 1}}, EVERYTHING),
        ({"training": {"learningRate": 1e-3}}, EVERYTHING[1:]),
        ({"training": {"lora": {"rank": 8}}}, EVERYTHING[1:]),
        ({"training": {"useLigerKernel": False}}, EVERYTHING[1:]),
        ({"export": {"formats": ["bf16", "int8"]}}, EVERYTHING[2:]),
        ({"evaluation": {"gates": []}}, EVERYTHING[3:]),
        # How it runs and where it goes does not change what is made.
        ({"training": {"checkpoints": {"everyMinutes": 1}}}, []),
        ({"resources": {"gpus": 0, "limits": {"cpu": "2"}}}, []),
        ({"resources": {"nodes": 4}}, []),
        ({"output": {"uri": "s3://artifacts/b", "secretRef": {"name": "s3"}}}, []),
        ({"retryPolicy": {"backoffLimit": 0}, "priorityClassName": "high"}, []),
        # A default that is written out is the default.
        ({"training": {"method": "lora", "lora": {"rank": 16}}, "export": {"formats": ["bf16"]}}, []),
    ],
)
def test_changed_stages(changes: Json, expected: list[str]) -> None:
    assert changed(**changes) == expected


def test_the_same_rows_without_training_are_prepared_anew() -> None:
    """prepare refuses too few rows only of a job that trains."""
    untrained = digests(training={"method": "none"})
    assert list(untrained) == ["prepare", "export", "evaluate", "publish"]
    assert untrained["prepare"] != digests()["prepare"]


def test_calibration_rows_are_read_by_prepare() -> None:
    def prepared(uri: str) -> str:
        job: Json = {"training": {"method": "none"}, "dataset": {}, "export": {"calibration": {"uri": uri}}}
        return digests(**job)["prepare"]

    assert prepared("s3://data/a.jsonl") != prepared("s3://data/b.jsonl")


def test_content_changes_the_digests() -> None:
    for part in ({"model": [["config.json", 10, "another"]]}, {"data": {"train-0": [["s3://data/a.jsonl", "01"]]}}):
        assert changed(SOURCES | part) == EVERYTHING


def test_digests_are_distinct_hex() -> None:
    found = digests()
    assert list(found) == EVERYTHING
    assert len(set(found.values())) == len(found)
    assert all(len(each) == 64 and int(each, 16) for each in found.values())


def test_recorded_digest() -> None:
    """Recorded: when this fails, every user's finished runs would be run again. Raise a version only for that."""
    assert digests()["train"] == "089ff34e3aed1a5149d4cdb85a07f5433dc64bd4ce1f6cb6cff73ab477e9a098"
