"""The rows of a source as examples: files are read, fields get the format's names, and the format makes an example."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from tuneyard_api import reasons
from tuneyard_api.kinds.dataset import BadRowsPolicy, Cleaning, DataSource
from tuneyard_trainer.data.bad_rows import BadRows
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Chat, Example, Key, RowError, content_key, to_json
from tuneyard_trainer.data.excerpt import excerpt
from tuneyard_trainer.data.findings import ORIGINALS, Findings, Original, SeenFormat
from tuneyard_trainer.data.formats import Format, detect, listed, load_format, renamed, require
from tuneyard_trainer.data.formats.fields import FieldRules, Fields, shown
from tuneyard_trainer.data.readers.row import BrokenRow, Place, RawRow, Row, parsed
from tuneyard_trainer.data.secrets import redaction
from tuneyard_trainer.data.split import GENERAL, TRAIN, Split
from tuneyard_trainer.runtime.errors import BadInput

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
UNTRAINED: Final = "answers that are not trained (weight: 0)"


class KnownRow(Protocol):
    """A row by what tells it from others."""

    @property
    def example(self) -> Example: ...
    @property
    def where(self) -> Place: ...
    @property
    def split(self) -> Split: ...
    @property
    def key(self) -> Key: ...
    @property
    def text(self) -> str:
        """The example as JSON, for people."""
        ...


class SourceRow(NamedTuple):
    """A row of a source, as the example that it stands for."""

    example: Example
    where: Place
    split: Split
    key: Key
    """Equal for rows whose content differs in nothing but case and white space."""
    fields: Mapping[str, Any] = MappingProxyType({})
    """As the file has them, while the rows are cleaned."""

    @property
    def text(self) -> str:
        """The example as JSON, for people."""
        return _ENCODER.encode(to_json(self.example))


@dataclass
class Reading:
    """What the sources of a data set are read with, and what is found."""

    settings: Cleaning = field(default_factory=Cleaning)
    bad: BadRows = field(default_factory=lambda: BadRows(BadRowsPolicy(policy="fail"), DroppedRows()))
    findings: Findings = field(default_factory=Findings)
    general: "Reading | None" = None
    """For the rows of dataset.replay, which are counted apart."""

    def of(self, split: Split) -> "Reading":
        """The one for the sources of a split."""
        return self.general if split == GENERAL and self.general else self


@dataclass
class SeenColumns:
    """The columns of a source's rows, to be compared with what the source says of them."""

    there: dict[str, None] = field(default_factory=dict)
    """All columns of all rows."""
    asked: set[str] = field(default_factory=set)
    """Fields that the formats have looked for."""

    def merge(self, others: "SeenColumns") -> None:
        self.there |= others.there
        self.asked |= others.asked

    def check(self, source: DataSource) -> None:
        """Raises BadInput when `columns` names a column that no row has, or a field that no format reads."""
        for name, column in (source.columns or {}).items():
            if column not in self.there:
                raise BadInput(
                    reasons.INVALID_SPEC,
                    f"No row of {source.uri} has the column {shown(column)}, which columns gives to {name}",
                    f"Correct columns. The rows have: {listed(self.there)}.",
                )
            if self.asked and name not in self.asked:
                raise BadInput(
                    reasons.INVALID_SPEC,
                    f"columns of {source.uri} names the field {shown(name)}, which the format does not have",
                    "Write the format's name first: {prompt: your_column}.",
                )


class SourceRows:
    """Makes examples of the rows of one source. With the format `auto`, each row tells its own format."""

    def __init__(self, source: DataSource, reading: Reading) -> None:
        self._source = source
        self._columns = source.columns or {}
        self._findings = reading.findings
        self._bad = reading.bad
        self._redact = redaction(reading.settings)
        self._rules = FieldRules(reading.settings.non_text, frozenset(source.ignore))
        self._formats: dict[frozenset[str], str] = {}
        self._modules: dict[str, Format] = {}
        self.columns = SeenColumns()

    def read(self, rows: Iterable[RawRow], split: Split = TRAIN) -> Iterator[SourceRow]:
        """The rows that can be used; the others are given to reading.bad."""
        for row in map(parsed, rows):
            self._findings.rows += 1
            try:
                example = self._example(row)
            except RowError as error:
                self._bad.add(error, row.place, row.content if isinstance(row, BrokenRow) else row.fields)
            else:
                fields = row.fields if isinstance(row, Row) else {}
                yield SourceRow(example, row.place, split, content_key(example), fields)

    def _example(self, row: Row | BrokenRow) -> Example:
        """Raises RowError when the row cannot be used."""
        if isinstance(row, BrokenRow):
            raise row.error
        self.columns.there.update(dict.fromkeys(row.fields))
        fields = Fields(renamed(row.fields, self._columns), self._rules)
        name = self._format(fields)
        example = self._modules[name].read(fields)
        self.columns.asked |= fields.asked
        unread = [*fields.unread(), *self._hidden(row.fields)]
        self._note(name, row.place, fields, unread, example)
        if self._findings.formats[self._source.uri, name].rows <= ORIGINALS:
            self._findings.originals[row.place] = Original(name, excerpt(self._redact(row.fields)))
        return example

    def _format(self, fields: Fields) -> str:
        """The format of a row, by the names of its fields."""
        names = frozenset(fields)
        if (known := self._formats.get(names)) is None:
            if self._source.format == "auto":
                known = detect(fields)
            else:
                known = self._source.format
                require(known, fields)
            self._formats[names] = known
            self._modules[known] = load_format(known)
        return known

    def _hidden(self, fields: Mapping[str, Any]) -> list[str]:
        """Fields of the row whose names `columns` gives to others."""
        given = self._columns.items()
        mapped = self._columns.values()
        return [f"{name} (columns takes {column})" for name, column in given if name in fields and name not in mapped]

    def _note(self, name: str, place: Place, fields: Fields, unread: list[str], example: Example) -> None:
        seen = self._findings.formats.get((self._source.uri, name))
        if seen is None:
            seen = SeenFormat(self._source.uri, name, place, listed(fields))
            self._findings.formats[self._source.uri, name] = seen
        seen.rows += 1
        if unread:
            self._findings.unread.update(set(unread))
        if fields.notes:
            self._findings.notes.update(fields.notes)
        if isinstance(example, Chat) and (context := sum(not message.trained for message in example.messages)):
            self._findings.notes[UNTRAINED] += context
