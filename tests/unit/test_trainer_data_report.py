"""The data report: what the page shows, and what it is made of."""

import base64
import re
from array import array
from collections import Counter
from typing import Any

import pytest

from support import reports
from support.pages import Page
from tuneyard_api.kinds.finetunejob_status import AnswersStatus, FitStatus
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Chat, Message, Text
from tuneyard_trainer.data.findings import Original
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.tokenize.tokens import TRUNCATED, AnswerCounts, TextPart
from tuneyard_trainer.reports.answers import answers_status, require_answers
from tuneyard_trainer.reports.data import DataReport, length_bins, said
from tuneyard_trainer.reports.data_document import (
    Cluster,
    DataDocument,
    DroppedReason,
    LengthBin,
    Said,
    Sample,
)
from tuneyard_trainer.reports.data_page import render_html
from tuneyard_trainer.reports.reading import Fault, FormatRows, ReadingDocument
from tuneyard_trainer.runtime.errors import BadInput

FILE = "s3://data/x.jsonl"
FIT = FitStatus.model_validate(reports.FIT | {"microBatchSize": 2})
GIVEN: dict[str, Any] = {
    "name": "support-bot",
    "digest": "sha256:1",
    "rows_in": 1200,
    "rows_kept": 1150,
    "rows": {"train": 1100, "validation": 50},
    "dropped": {"duplicate": 40, "$other$": 10},
    "reasons": [
        DroppedReason(reason="duplicate", rows=40, where=f"{FILE}, line 9", row='{"question": "<script>alert(1)"}'),
        DroppedReason(reason="$other$", rows=10, where=f"{FILE}, line 3", message="the answer is <b>"),
    ],
    "tokens": 98765,
    "supervised_tokens": 4321,
    "length_percentiles": {"50": 64, "100": 1024},
    "lengths": [LengthBin(begin=0, end=100, rows=1000), LengthBin(begin=100, end=200, rows=150)],
    "answers": AnswersStatus(given=1300, trained=1299, left_out={"truncated": 1}, cut_short=3),
    "trained_row": [
        TextPart(text="<|user|>Why?\n<|assistant|>", is_trained=False),
        TextPart(text="So.\nIt is.</s>", is_trained=True),
    ],
    "samples": [
        Sample(
            where=f"{FILE}, line 1",
            format="alpaca",
            before='{"instruction": "What is <b>?"}',
            after=[Said(speaker="user", text="What is <b>?"), Said(speaker="assistant", text="A tag.\nIt is bold.")],
        )
    ],
    "clusters": [Cluster(where=f"{FILE}, line 7", repeats=12)],
    "reading": ReadingDocument(
        formats=[FormatRows(source=FILE, format="alpaca", rows=1200, first=f"{FILE}, line 1", fields="instruction")],
        unread={"rationale": 17},
        notes={"answers written as JSON": 5},
        faults=[Fault(rows=3, reason="InvalidJSON", example=f"{FILE}, line 2: not JSON")],
    ),
}


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(DataDocument(**GIVEN))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page.of(html)


def test_the_page_is_complete_and_accessible(page: Page) -> None:
    assert page.defects() == []
    assert len(page.images) == 2


@pytest.mark.parametrize(
    "row",
    [
        ["read", "1,200", ""],
        ["duplicate", "40", f'{FILE}, line 9{{"question": "<script>alert(1)"}}'],
        ["$other$", "10", f"{FILE}, line 3: the answer is <b>"],
        ["kept", "1,150", ""],
        ["InvalidJSON", "3", f"{FILE}, line 2: not JSON"],
        [f"{FILE}, line 7", "12"],
        ["alpaca", "1,200", "instruction", f"{FILE}{FILE}, line 1"],
        ["rationale", "17"],
        ["0 to 99", "1,000"],
    ],
    ids=lambda row: row[0],
)
def test_tables(page: Page, row: list[str]) -> None:
    assert row in page.rows


@pytest.mark.parametrize(
    "words",
    [
        "<strong>1,150 of 1,200 rows kept</strong>, 1,100 for train, 50 for validation; 98,765 tokens, 4,321 of them",
        "1299 of 1300 answers trained (left out: 1 truncated; 3 cut short)",
        "<strong>Not every answer is trained.</strong> notShown: the chat template leaves the answer out.",
        "<li>5 answers written as JSON</li>",
        "percentile 50: 64, percentile 100: 1,024 tokens",
        "<pre>&lt;|user|&gt;Why?\n&lt;|assistant|&gt;<mark>So.\nIt is.&lt;/s&gt;</mark></pre>",
        "<dt>assistant</dt><dd>A tag.\nIt is bold.</dd>",
    ],
)
def test_text(html: str, words: str) -> None:
    assert words in html


def test_plots_say_what_they_show(html: str) -> None:
    funnel, histogram = (base64.b64decode(data).decode() for data in re.findall(r'svg\+xml;base64,([^"]+)"', html))
    for label in ("read", "duplicate", "$other$", "kept", "1,150"):
        assert f">{label}</text>" in funnel
    assert ">tokens per row</text>" in histogram


def test_the_same_document_gives_the_same_bytes(html: str) -> None:
    assert render_html(DataDocument(**GIVEN)) == html


def test_without_tokens_and_without_faults() -> None:
    bare = {"reasons": [], "lengths": [], "length_percentiles": {}, "trained_row": [], "clusters": [], "tokens": 0}
    reading = {"reading": ReadingDocument(), "samples": [], "answers": AnswersStatus(given=0, trained=0)}
    html = render_html(DataDocument(**GIVEN | bare | reading))
    assert Page.of(html).defects() == []
    for words in ("Length", "What is trained", "Duplicates", "Not every answer", "before and after", "tokens"):
        assert f"<h2>{words}" not in html
        assert words not in html or words == "tokens"


@pytest.mark.parametrize(
    ("lengths", "bins"),
    [
        ([], []),
        ([3, 3, 5], [(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 2), (4, 5, 0), (5, 6, 1)]),
        ([100, 39], [(0, 10, 0), (10, 20, 0), (20, 30, 0), (30, 40, 1), *[(n, n + 10, 0) for n in range(40, 100, 10)]]),
    ],
)
def test_lengths(lengths: list[int], bins: list[tuple[int, int, int]]) -> None:
    found = [(item.begin, item.end, item.rows) for item in length_bins(array("i", lengths))]
    assert found[: len(bins)] == bins
    assert sum(rows for *_, rows in found) == len(lengths)
    assert len(found) <= 20


def test_samples_are_rows_before_and_after() -> None:
    example = Chat((Message("user", "Why?"), Message("assistant", "So.")))
    places = [Place(FILE, number) for number in range(1, 6)]
    originals = {place: Original("alpaca" if place.number < 5 else "messages", f"row {place}") for place in places[1:]}
    report = DataReport(1, originals=originals)
    for place in places:
        report.add_row("train", SourceRow(example, place, "train", b""))
    assert [(sample.where, sample.format) for sample in report.samples] == [
        (f"{FILE}, line 2", "alpaca"),
        (f"{FILE}, line 3", "alpaca"),
        (f"{FILE}, line 5", "messages"),
    ]
    assert report.samples[0].before == f"row {FILE}, line 2"
    assert report.samples[0].after == [Said(speaker="user", text="Why?"), Said(speaker="assistant", text="So.")]


def test_fit() -> None:
    """The parts, their sum and what there is, with the advice."""
    html = render_html(DataDocument(**GIVEN | {"fit": FIT}))
    page = Page.of(html)
    assert page.defects() == []
    for row in (["weights", "15.30"], ["logits", "15.20"], ["all parts", "30.5"], ["available", "22.5"]):
        assert row in page.rows
    assert '<strong class="failed">30.5 of 22.5 GiB (NVIDIA-L4): DoesNotFit</strong>, with 2 rows at a time.' in html
    assert "Set training.microBatchSize: 1 (12.0 GiB)." in html
    unknown = FIT.model_copy(update={"verdict": "Unknown", "available_gib": None, "advice": None})
    assert ["available", "22.5"] not in Page.of(render_html(DataDocument(**GIVEN | {"fit": unknown}))).rows
    assert "Memory of the training" not in render_html(DataDocument(**GIVEN))
    document = DataReport(1).document("x", "", ReadingDocument(), FIT)
    assert document.wire()["fit"]["parts"] == {"weights": 15.3, "logits": 15.2}


def test_other_examples_and_long_texts() -> None:
    (part,) = said(Text("x" * 1001))
    assert part == Said(speaker="text", text="x" * 1000 + " ... (1 more characters)")


def test_reasons_and_clusters() -> None:
    dropped = DroppedRows()
    kept = Place(FILE, 1)
    dropped.add(Place(FILE, 2), "nearDuplicate", {"question": "\ud800"}, "it repeats another", kept)
    dropped.add(Place(FILE, 3), "nearDuplicate", {"question": "b"}, repeats=kept)
    document = DataReport(1, dropped).document("x", "", ReadingDocument())
    assert document.reasons == [
        DroppedReason(
            reason="nearDuplicate",
            rows=2,
            where=f"{FILE}, line 2",
            message="it repeats another",
            row='{"question": "\\ud800"}',
        )
    ]
    assert document.clusters == [Cluster(where=f"{FILE}, line 1", repeats=2)]


def test_too_few_answers() -> None:
    counts = AnswerCounts(given=10, trained=8, cut_short=1, left_out=Counter(notShown=1, truncated=1))
    text = "8 of 10 answers trained (left out: 1 notShown, 1 truncated; 1 cut short)"
    assert answers_status(counts).text == text
    require_answers(counts, 0.8)
    require_answers(AnswerCounts(), 1)
    counts.left_out["truncated"] += 1
    counts.given += 1
    with pytest.raises(BadInput, match=r"8 of 11 answers trained .*minTrainedAnswers is 0\.8") as error:
        require_answers(counts, 0.8)
    assert error.value.reason == "AnswersNotTrained"
    assert error.value.advice.startswith("Raise training.maxLength")


@pytest.mark.parametrize(
    ("min_rows", "rows", "cut", "message", "advice"),
    [
        (
            1,
            3,
            6,
            r"Of 3 rows 3 are for training and 0 for validation \(dropped: 6 nothingToTrain\)",
            "what comes before",
        ),
        (100, 3, 6, r"3 rows are left of 9 \(dropped: 6 nothingToTrain\); .*minRows is 100", "what comes before"),
        (100, 6, 3, r"6 rows are left of 9 \(dropped: 3 nothingToTrain\)", "Add rows, or lower"),
        (1, 3, 0, r"Of 3 rows 3 are for training and 0 for validation \(dropped: none\)", "Add rows, change"),
    ],
)
def test_too_few_rows_because_answers_are_cut_off(
    min_rows: int, rows: int, cut: int, message: str, advice: str
) -> None:
    """Where prompts fill training.maxLength, more rows of the kind would not help."""
    report = DataReport(min_rows, rows_in=rows + cut, rows=Counter(train=rows))
    report.dropped.counts.update(["nothingToTrain"] * cut)
    report.answers.left_out.update([TRUNCATED] * cut)
    with pytest.raises(BadInput, match=message) as error:
        report.require_splits()
    assert advice in error.value.advice
