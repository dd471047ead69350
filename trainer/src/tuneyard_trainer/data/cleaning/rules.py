"""The user's own rules: regular expressions on the fields of a row (dataset.clean.rowRules)."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tuneyard_api.kinds.dataset import RowRule
from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.split import GENERAL
from tuneyard_trainer.data.texts import texts

REASON: Final = "rule"


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    rules = [(rule, re.compile(rule.pattern)) for rule in context.settings.row_rules]
    for row in rows:
        about_it = rules if row.split != GENERAL else []
        broken = next((rule for rule, pattern in about_it if _drops(rule, pattern, row)), None)
        if broken is None:
            yield row
        else:
            matches = "matches" if broken.action == "drop" else "does not match"
            context.drop(row, REASON, f"{broken.field or 'the row'} {matches} {broken.pattern}")


def _drops(rule: RowRule, pattern: re.Pattern[str], row: SourceRow) -> bool:
    found = texts(row.example) if rule.field is None else _values(row.fields, rule.field.split("."))
    return any(map(pattern.search, found)) == (rule.action == "drop")


def _values(value: Any, path: list[str]) -> Iterator[str]:
    """What stands at the path, as text; each item of a list."""
    if isinstance(value, list) and path:
        for item in value:
            yield from _values(item, path)
    elif not path:
        if value is not None:
            yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    elif isinstance(value, dict):
        if (whole := ".".join(path)) in value:
            yield from _values(value[whole], [])
        elif path[0] in value:
            yield from _values(value[path[0]], path[1:])
