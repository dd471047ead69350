"""Replaces keys, tokens and passwords by their kind, or drops their rows (dataset.clean.secrets)."""

from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.secrets import may_have_secrets, without_secrets
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.texts import change_texts

CHANGE: Final = "secretsRedacted"
REASON: Final = "secret"


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    policy = context.settings.secrets
    if policy == "keep":
        yield from rows
        return
    for row in rows:
        example = change_texts(row.example, without_secrets, may_have_secrets)
        if example is row.example:
            yield row
            continue
        redacted = context.change(row, example, CHANGE, hide=True)
        if policy == "redact":
            yield redacted
        else:
            context.drop(redacted, REASON)
