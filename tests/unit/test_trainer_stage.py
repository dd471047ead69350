"""How a stage says how it ended."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_store import errors as store_errors
from tuneyard_store.credentials import Credentials
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, StageError, TryAgain, from_store
from tuneyard_trainer.runtime.stage_runner import (
    TERMINATION_BYTES,
    Outcome,
    StageContext,
    failure,
    run_stage,
    termination_message,
)

DIGEST = "sha256:" + "0" * 64


def told(outcome: Outcome, limit: int = TERMINATION_BYTES) -> dict[str, Any]:
    message = termination_message(outcome, limit)
    assert len(message) <= limit
    document: dict[str, Any] = json.loads(message)
    return document


def test_what_fits_is_told_whole() -> None:
    outcome = Outcome(65, "InvalidJSON", "s3://b/x, line 3: not JSON.", "Correct it.", {"a": [1]})
    expected = {"message": outcome.message, "advice": outcome.advice, "result": {"a": [1]}}
    assert told(outcome) == {"reason": "InvalidJSON"} | expected
    assert told(Outcome(0, "Completed", "Done.")) == {"reason": "Completed", "message": "Done."}


def test_a_long_message_keeps_its_ends() -> None:
    document = told(Outcome(65, "InvalidSpec", "begins " + "x" * 9000 + " ends", "Correct it."))
    assert document["message"].startswith("begins x")
    assert document["message"].endswith("x ends")
    assert document["advice"] == "Correct it."


def test_the_largest_result_of_publish_fits() -> None:
    """All formats, all gates, the longest uris: what the status needs is still there."""
    uri = "s3://" + "b" * 63 + "/" + "p" * 300
    artifacts = [
        {"format": name, "uri": uri, "digest": DIGEST, "sizeBytes": 10**12, "perplexity": 12.3456}
        for name in ("bf16", "int8", "gptq")
    ]
    gate = {"metric": "perplexity", "against": "base", "subject": "tuned", "value": 1.5, "limit": 2.5, "passed": True}
    result = {
        "artifacts": artifacts,
        "recommended": {"format": "gptq", "uri": uri, "digest": DIGEST, "reason": "smallest of 3 whose gates passed"},
        "perplexity": dict.fromkeys(("base", "tuned", "int8", "gptq"), 12.3456),
        "gates": [gate] * 48,
        "passed": True,
        "releaseURI": uri,
        "dataset": {"rowsIn": 1, "rowsKept": 1, "dropped": {}, "tokens": 1, "digest": DIGEST, "reportURI": uri},
        "loss": 1.25,
    }
    shown = told(Outcome(0, "Completed", f"Written to {uri}.", result=result))["result"]
    for key in ("artifacts", "recommended", "releaseURI", "loss", "passed"):
        assert shown[key] == result[key]


@given(st.text(), st.text(), st.dictionaries(st.text(max_size=5), st.text(), max_size=8) | st.none())
def test_it_is_always_whole_json_within_the_limit(message: str, advice: str, result: dict[str, str] | None) -> None:
    document = told(Outcome(1, "StageCrashed", message * 40, advice * 40, result), limit=4096)
    assert document["reason"] == "StageCrashed"


@pytest.mark.parametrize(
    ("error", "code"), [(StageError, 1), (BadInput, 65), (TryAgain, 75), (DoesNotFit, 78)]
)  # fmt: skip
def test_exit_codes(error: type[StageError], code: int) -> None:
    assert error("Reason", "message").exit_code == code


def test_every_error_of_the_store_has_an_exit_code() -> None:
    for kind in [store_errors.StoreError, *store_errors.StoreError.__subclasses__()]:
        error = from_store(kind("what", "do"))
        assert (error.reason, error.message, error.advice) == (kind.reason, "what", "do")
        assert error.exit_code == (75 if kind is store_errors.StorageUnavailable else 65)


def test_messages_and_advice_are_sentences() -> None:
    assert str(BadInput("Reason", "what is wrong", "what to do")) == "what is wrong. what to do."
    assert str(BadInput("Reason", "Really?")) == "Really?"


def test_a_gate_that_failed_tells_what_was_measured() -> None:
    measured = {"perplexity": {"base": 5.0, "tuned": 6.0}, "gates": [], "passed": False}
    outcome = failure(BadInput(reasons.GATE_FAILED, "worse", "train longer", measured), logging.getLogger("test"))
    assert told(outcome) == {
        "reason": "GateFailed",
        "message": "worse.",
        "advice": "train longer.",
        "result": measured,
    }


def test_what_nobody_expected_is_told_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/a"},
            "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
            "output": {"uri": "s3://artifacts/a"},
        }
    )
    store = S3Store(Credentials())
    context = StageContext(stage="train", name="x", spec=spec, store=store, work=tmp_path, digests={})
    with caplog.at_level(logging.ERROR):
        outcome = run_stage(context)  # without prepare's digests
    assert (outcome.exit_code, outcome.reason) == (1, reasons.STAGE_CRASHED)
    assert "KeyError: 'train'" in outcome.message
    assert "Traceback" in caplog.text
