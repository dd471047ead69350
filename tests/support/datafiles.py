"""Data files in memory, read as prepare reads them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneyard_api.kinds.dataset import BadRowsPolicy, Cleaning, DataSource
from tuneyard_trainer.data.bad_rows import BadRows
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import to_json
from tuneyard_trainer.data.files import DataFile, no_rows
from tuneyard_trainer.data.readers import read_rows
from tuneyard_trainer.data.source import Reading, SourceRow, SourceRows

ROOT = "s3://data"
Json = dict[str, Any]


def lines(*rows: Json) -> bytes:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read_source(source: DataSource, files: list[DataFile], reading: Reading | None = None) -> Iterator[SourceRow]:
    """The rows of a source, not cleaned.

    Raises:
        BadInput: see tuneyard_trainer.data.clean_blocks.clean_source.
    """
    reading = reading or Reading()
    rows = SourceRows(source, reading)
    for file in files:
        yield from rows.read(read_rows(file.path, file.uri))
    if not reading.findings.rows:
        raise no_rows(source.uri)
    rows.columns.check(source)


def read(
    path: Path, content: bytes, name: str = "x.jsonl", clean: Json | None = None, **source: Any
) -> tuple[list[Any], Reading]:
    """The examples in a file as JSON, and what was found.

    Raises:
        BadInput: see read_source; or too many rows are bad.
    """
    path.write_bytes(content)
    settings = Cleaning.model_validate(clean or {})
    source_given = DataSource.model_validate({"uri": f"{ROOT}/{name}"} | source)
    with DroppedRows(path.with_name("dropped.jsonl")) as dropped:
        reading = Reading(settings, BadRows(settings.bad_rows, dropped))
        rows = read_source(source_given, [DataFile(f"{ROOT}/{name}", path, "")], reading=reading)
        examples = [to_json(row.example) for row in rows]
    reading.bad.require(reading.findings.rows)
    return examples, reading


ALL_BAD_IS_FINE: Json = {"badRows": BadRowsPolicy(max_fraction=1).wire()}
