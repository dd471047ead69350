"""What became of the data: counts, lengths and two rows as the model sees them."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from tuneyard_trainer.data.examples import Messages
from tuneyard_trainer.data.shards import TokenizedRow
from tuneyard_trainer.data.tokenize import supervised

Json = dict[str, Any]

PERCENTILES: Final = (50, 90, 99, 100)
SAMPLES: Final = 2


@dataclass
class DataReport:
    """Counted while the rows go by."""

    min_rows: int
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)  # by split
    supervised: int = 0
    lengths: "array[int]" = field(default_factory=lambda: array("i"))  # tokens of each kept row
    samples: list[Messages] = field(default_factory=list)

    @property
    def kept(self) -> int:
        return self.rows.total()

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def add(self, split: str, tokens: TokenizedRow, messages: Messages) -> None:
        self.rows[split] += 1
        self.supervised += supervised(tokens)
        self.lengths.append(len(tokens.input_ids))
        if len(self.samples) < SAMPLES:
            self.samples.append(messages)

    def summary(self, name: str, digest: str) -> Json:
        return {
            "name": name,
            "digest": digest,
            "rowsIn": self.rows_in,
            "rowsKept": self.kept,
            "rows": dict(sorted(self.rows.items())),
            "dropped": dict(sorted(self.dropped.items())),
            "tokens": self.tokens,
            "supervisedTokens": self.supervised,
            "lengthPercentiles": {str(each): percentile(self.lengths, each) for each in PERCENTILES},
            "samples": self.samples,
        }


def percentile(values: "array[int]", percent: int) -> int:
    """The nearest-rank percentile."""
    ranked = sorted(values)
    return ranked[max(0, -(-percent * len(ranked) // 100) - 1)]


def render_markdown(summary: Json) -> str:
    """The summary for people."""
    counts = [
        ("rows read", summary["rowsIn"]),
        *((f"dropped: {reason}", count) for reason, count in summary["dropped"].items()),
        *((f"kept for {split}", count) for split, count in summary["rows"].items()),
        ("tokens", summary["tokens"]),
        ("tokens that are trained", summary["supervisedTokens"]),
        *((f"tokens per row, percentile {each}", value) for each, value in summary["lengthPercentiles"].items()),
    ]
    table = "\n".join(f"| {name} | {value:,} |" for name, value in counts)
    samples = "\n\n".join(
        "\n".join(f"    {message['role']}: {line}" for message in messages for line in message["content"].splitlines())
        for messages in summary["samples"]
    )
    return (
        f"# Data of {summary['name']}\n\n{summary['digest']}\n\n| | |\n|---|---:|\n{table}\n\n## Samples\n\n{samples}\n"
    )
