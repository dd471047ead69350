"""The data report in Markdown."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tuneyard_api.kinds.finetunejob_status import AnswersStatus
from tuneyard_trainer.data.tokenize.tokens import AnswerCounts, TextPart
from tuneyard_trainer.reports.answers import answers_status, require_answers
from tuneyard_trainer.reports.data import DataDocument, render_markdown
from tuneyard_trainer.runtime.errors import BadInput

REPORT = """# Data of support-bot

sha256:1

| | |
|---|---:|
| rows read | 1,200 |
| dropped: duplicate | 50 |
| kept for train | 1,100 |
| kept for validation | 50 |
| tokens | 98,765 |
| tokens that are trained | 4,321 |
| answers | 1,300 |
| answers that are trained | 1,300 |
| tokens per row, percentile 50 | 64 |
| tokens per row, percentile 100 | 1,024 |

## Samples

    user: What is <b>?
    assistant: A tag.
    assistant: It is bold.

    user: And i?
    assistant: Italic.
"""


ALL = AnswersStatus(given=1300, trained=1300)


def document(samples: list[Any], answers: AnswersStatus = ALL, trained_row: Sequence[TextPart] = ()) -> DataDocument:
    return DataDocument(
        name="support-bot",
        digest="sha256:1",
        rows_in=1200,
        rows_kept=1150,
        rows={"train": 1100, "validation": 50},
        dropped={"duplicate": 50},
        tokens=98765,
        supervised_tokens=4321,
        length_percentiles={"50": 64, "100": 1024},
        answers=answers,
        trained_row=list(trained_row),
        samples=samples,
    )


def test_chats() -> None:
    samples = [
        [{"role": "user", "content": "What is <b>?"}, {"role": "assistant", "content": "A tag.\nIt is bold."}],
        [{"role": "user", "content": "And i?"}, {"role": "assistant", "content": "Italic."}],
    ]
    assert render_markdown(document(samples)) == REPORT


@pytest.mark.parametrize(("sample", "lines"), [({"text": "One.\nTwo."}, "    text: One.\n    text: Two.\n")])
def test_other_examples(sample: dict[str, str], lines: str) -> None:
    assert render_markdown(document([sample])).endswith("## Samples\n\n" + lines)


LEFT_OUT = """| answers | 9 |
| answers that are trained | 6 |
| answers left out: notShown | 2 |
| answers left out: truncated | 1 |
| answers that lost their end to training.maxLength | 3 |
"""
TRAINED_ROW = """## What is trained

One row as the model sees it. It learns to write what stands between ⟦ and ⟧.

    <|user|>Why?
    <|assistant|>⟦So.
    It is.</s>⟧

## Samples
"""


def test_answers_and_the_row_that_is_shown() -> None:
    answers = AnswersStatus(given=9, trained=6, left_out={"notShown": 2, "truncated": 1}, cut_short=3)
    row = [
        TextPart(text="<|user|>Why?\n<|assistant|>", is_trained=False),
        TextPart(text="So.\nIt is.</s>", is_trained=True),
    ]
    text = render_markdown(document([], answers, row))
    assert LEFT_OUT in text
    assert "**Not every answer is trained.** notShown: the chat template leaves the answer out." in text
    assert TRAINED_ROW in text
    assert "Not every answer" not in render_markdown(document([]))


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
