"""The fields of a row or of one of its messages: what the formats have in common.

Fields remember which of them a format has asked for, so that none is dropped in silence.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.formats.vocabulary import HARMLESS, MEANINGFUL, WEIGHT
from tuneyard_trainer.runtime.errors import printable

NAME_CHARACTERS: Final = 60
AS_JSON: Final = "answers that were not text, written as JSON"


class FieldRules(NamedTuple):
    """How fields are read."""

    non_text: str = "json"
    """dataset.clean.nonText: json or fail."""
    ignore: frozenset[str] = frozenset()
    """The names that a source does not want to be read."""


class Fields(Mapping[str, Any]):
    """Fields by name; null is as good as absent.

    Args:
        label: begins the messages about a field, as in "message 2: ".
        path: begins the names of unread fields, as in "messages[].".
        notes: those of the row that these fields are within.
    """

    __slots__ = ("_children", "_values", "asked", "label", "notes", "path", "rules")

    def __init__(
        self,
        values: Mapping[str, Any],
        rules: FieldRules | None = None,
        label: str = "",
        path: str = "",
        notes: Counter[str] | None = None,
    ) -> None:
        self.rules = rules or FieldRules()
        ignore = self.rules.ignore
        self._values = {name: value for name, value in values.items() if value is not None and name not in ignore}
        self._children: list[Fields] = []
        self.asked: set[str] = set()
        self.notes: Counter[str] = Counter() if notes is None else notes
        """On these fields and on those within them."""
        self.label = label
        self.path = path

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return self._values[name]

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return self._values.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def first(self, names: Sequence[str]) -> str | None:
        """The first of these fields that has a value; where none has one, the first that is empty."""
        if self._values.keys().isdisjoint(names):
            self.asked.update(names)
            return None
        full = empty = None
        for name in names:
            value = self._values.get(name)
            if value is None:
                self.asked.add(name)
            elif full is None and not is_empty(value):
                full = name
            elif empty is None:
                empty = name
        return full or empty

    def text(self, name: str) -> str:
        """A field that must hold text; the empty string where it is absent.

        Raises:
            RowError: it holds something else, or half a character (a lone surrogate).
        """
        value = self.get(name, "")
        if not isinstance(value, str):
            self.refuse(f"the field {name} is {type(value).__name__}, not text", f"Make {name} a string")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            self.refuse(f"the field {name} holds half a character at position {error.start}", "Write it as UTF-8 again")
        return str(value)

    def answer(self, name: str) -> str:
        """An answer as text: numbers, lists and objects become JSON (dataset.clean.nonText).

        Raises:
            RowError: JSON does not have such a value, or nonText is fail.
        """
        value = self.get(name, "")
        if isinstance(value, str) or self.rules.non_text == "fail":
            return self.text(name)
        try:
            written = json.dumps(value, ensure_ascii=False, allow_nan=False)
            written.encode()
        except (TypeError, ValueError, RecursionError):
            self.refuse(f"the field {name} ({type(value).__name__}) cannot be written as JSON", f"Make {name} a string")
        self.notes[AS_JSON] += 1
        return written

    def list_of(self, name: str) -> list[Any]:
        """A list, which may be written as JSON (tables have no other way); empty where it is absent.

        Raises:
            RowError: it is no list.
        """
        value = self.get(name, [])
        if isinstance(value, str):
            value = parsed(value) if value.strip() else []
        if not isinstance(value, list):
            self.refuse(f"the field {name} is no list", f"Make {name} a list [...]")
        return value

    def child(self, values: Any, label: str, path: str) -> "Fields":
        """The fields of an object within this one.

        Raises:
            RowError: it is no object.
        """
        if not isinstance(values, dict):
            self.refuse(f"{label} is not an object", "Write an object with named fields: {...}")
        child = Fields(values, self.rules, f"{self.label}{label}: ", f"{self.path}{path}.", self.notes)
        self._children.append(child)
        return child

    def refuse(self, message: str, advice: str, reason: str = reasons.INVALID_ROW) -> NoReturn:
        """Raises RowError about these fields."""
        raise RowError(reason, f"{self.label}{message}", advice)

    def unread(self) -> Iterator[str]:
        """The paths of the fields that have a value, were not asked for, and are not known to be harmless.

        Raises:
            RowError: such a field means something, so that the row would say something else without it.
        """
        for name, value in self._values.items():
            if name in self.asked or name in HARMLESS or is_empty(value):
                continue
            if name == WEIGHT and not isinstance(value, bool) and value == 1:
                continue
            if name in MEANINGFUL:
                advice = f"{MEANINGFUL[name]}; or remove {name}, or name it in ignore of the data source"
                self.refuse(f"the field {name} is not read here", advice[0].upper() + advice[1:])
            yield self.path + shown(name)
        for child in self._children:
            yield from child.unread()


def is_empty(value: Any) -> bool:
    return value in ("", [], {})


def parsed(text: str) -> Any:
    """What a text says in JSON; None where it is something else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def shown(name: object) -> str:
    """A field's name for messages and reports: short, and printable."""
    text = printable(str(name))
    return text if len(text) <= NAME_CHARACTERS else f"{text[:NAME_CHARACTERS]}..."


def missing_answer(fields: Fields, message: str) -> NoReturn:
    fields.refuse(message, "Add the answer, or remove the row", reasons.MISSING_ANSWER)
