"""The part of the data report about reading: the formats that were found, fields that were not read, and bad rows."""

from tuneyard_api.contracts.base import Contract
from tuneyard_trainer.data.bad_rows import BadRows
from tuneyard_trainer.data.findings import Findings


class FormatRows(Contract):
    """Rows of one format in one source."""

    source: str
    format: str
    rows: int
    first: str
    """URI and line of the first one."""
    fields: str
    """The names of its fields."""


class Fault(Contract):
    """Bad rows with the same fault."""

    rows: int
    reason: str
    example: str
    """Place and fault of the first one."""


class ReadingDocument(Contract):
    """What was seen while the rows were read."""

    formats: list[FormatRows] = []
    unread: dict[str, int] = {}
    """Rows by the field that has a value and was not read, the commonest first."""
    notes: dict[str, int] = {}
    faults: list[Fault] = []
    """The commonest first."""


def reading_document(findings: Findings, bad: BadRows) -> ReadingDocument:
    """The report on all rows that were read."""
    return ReadingDocument(
        formats=[
            FormatRows(
                source=seen.source, format=seen.format, rows=seen.rows, first=str(seen.first), fields=seen.fields
            )
            for seen in findings.formats.values()
        ],
        unread=dict(findings.unread.most_common()),
        notes=dict(sorted(findings.notes.items())),
        faults=[Fault(rows=fault.rows, reason=fault.error.reason, example=fault.example) for fault in bad.faults()],
    )
