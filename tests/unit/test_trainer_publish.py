"""Which artifact is recommended, and what the model card says."""

from typing import Any

import pytest
import yaml

from tuneyard_api.base import Model
from tuneyard_api.kinds.finetunejob_status import Artifact, DatasetStatus, GateStatus, Recommended
from tuneyard_api.kinds.modelserver import ModelServerSpec
from tuneyard_trainer.reports.model_card import render_model_card
from tuneyard_trainer.stages.publish import measured, recommend

Json = dict[str, Any]
PERPLEXITY = {"base": 20.0, "tuned": 5.0, "int8": 5.1, "gptq": 5.4}
SIZES = {"bf16": 300_000_000, "int8": 170_000_000, "gptq": 100_000_000}


def artifacts(*formats: str) -> list[Json]:
    plain = [
        {"format": each, "uri": f"s3://out/{each}", "digest": "sha256:" + "a" * 64, "sizeBytes": SIZES[each]}
        for each in formats
    ]
    return measured(plain, PERPLEXITY)


def gate(subject: str, passed: bool) -> Json:
    against = "base" if subject == "tuned" else "tuned"
    values = {"metric": "perplexity", "against": against, "subject": subject, "value": 5.0, "limit": 6.0}
    return values | {"passed": passed}


ALL = ("bf16", "int8", "gptq")


@pytest.mark.parametrize(
    ("formats", "gates", "chosen", "says"),
    [
        (ALL, [gate("tuned", True), gate("int8", True), gate("gptq", True)], "gptq", "smallest of 3"),
        (ALL, [gate("tuned", True), gate("int8", True), gate("gptq", False)], "int8", "gptq failed"),
        (ALL, [gate("tuned", True), gate("int8", False), gate("gptq", False)], "bf16", "the only artifact"),
        (("int8", "gptq"), [gate("int8", True), gate("gptq", False)], "int8", "the only artifact"),
        (ALL, [], "gptq", "smallest of 3"),
        # onGateFailure: Warn publishes all the same; the best is the least bad.
        (ALL, [gate("tuned", False), gate("int8", True), gate("gptq", True)], "bf16", "though a gate failed"),
        (("int8", "gptq"), [gate("int8", False), gate("gptq", False)], "int8", "though a gate failed"),
    ],
)
def test_the_smallest_that_passed_is_recommended(
    formats: tuple[str, ...], gates: list[Json], chosen: str, says: str
) -> None:
    recommended = recommend(artifacts(*formats), gates)
    assert recommended["format"] == chosen
    assert says in recommended["reason"]


def test_bf16_is_as_good_as_the_tuned_model() -> None:
    assert {each["format"]: each["perplexity"] for each in artifacts(*ALL)} == {"bf16": 5.0, "int8": 5.1, "gptq": 5.4}


def release() -> Json:
    gates = [gate("tuned", True), gate("gptq", False)]
    data = {"rowsIn": 1200, "rowsKept": 1150, "dropped": {"duplicate": 50}, "tokens": 98765, "digest": "sha256:1"}
    return {
        "name": "support-bot",
        "spec": {
            "model": {"uri": "s3://models/a"},
            "training": {"method": "qlora"},
            "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
        },
        "artifacts": artifacts(*ALL),
        "recommended": recommend(artifacts(*ALL), gates),
        "perplexity": PERPLEXITY,
        "gates": gates,
        "dataset": data | {"reportURI": "s3://out/report.md"},
        "loss": 1.2345678,
    }


def test_the_model_card_tells_where_from_how_good_and_how_to_serve() -> None:
    card = render_model_card(release())
    for words in ("s3://models/a", "qlora", "1,150 of 1,200", "98,765", "1.235", "**int8**", "| gptq | perplexity |"):
        assert words in card
    example = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    served = ModelServerSpec.model_validate(example["spec"]).model.fine_tune_job_ref
    assert served is not None
    assert served.name == "support-bot"


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Artifact, release()["artifacts"][0]),
        (Recommended, release()["recommended"]),
        (GateStatus, release()["gates"][0]),
        (DatasetStatus, release()["dataset"]),
    ],
)
def test_a_release_fits_the_status(model: type[Model], value: Json) -> None:
    model.model_validate(value)
