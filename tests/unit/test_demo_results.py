"""The page of docs/results.md."""

from datetime import UTC, datetime

from demo.results import Answers, results_page

JOB = {
    "spec": {"model": {"uri": "s3://models/m"}},
    "status": {
        "dataset": {"rowsIn": 10, "rowsKept": 8},
        "training": {"steps": 40},
        "artifacts": [{"format": "int8", "sizeBytes": 167_000_000}],
        "recommended": {"format": "int8", "reason": "smallest"},
        "stages": [{"name": "train", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:30Z"}],
    },
}


def test_the_page_has_numbers_and_answers_side_by_side() -> None:
    answers = [Answers("What is a Pod?", "a group | of containers", "I do\nnot know.", "**Pod**")]
    page = results_page(JOB, answers, {"base": 34.0, "tuned": 8.5, "int8": 8.6}, datetime(2026, 1, 2, tzinfo=UTC))
    assert "on 2026-01-02 from a run on" in page
    assert "8 of 10 rows" in page
    assert "| base | 34.00 | +0 % |  |\n| tuned | 8.50 | -75 % |  |\n| int8 | 8.60 | -75 % | 167 MB |\n" in page
    assert "| train | 90 |" in page
    assert "The answer in the data: a group \\| of containers\n" in page
    assert "| I do not know. | **Pod** |" in page
