"""The data report in Markdown."""

from typing import Any

import pytest

from tuneyard_trainer.reports.data import DataDocument, render_markdown

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
| tokens per row, percentile 50 | 64 |
| tokens per row, percentile 100 | 1,024 |

## Samples

    user: What is <b>?
    assistant: A tag.
    assistant: It is bold.

    user: And i?
    assistant: Italic.
"""


def document(samples: list[Any]) -> DataDocument:
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
