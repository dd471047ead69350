"""Parquet, read in batches: one batch of rows is in memory."""

import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Final

from tuneyard_api import reasons
from tuneyard_trainer.data.readers.row import Place, Row
from tuneyard_trainer.runtime.errors import blamed_on

BATCH_ROWS: Final = 256
ADVICE: Final = "Write it again, for example with pandas: to_parquet."


def read(stream: IO[bytes], uri: str) -> Iterator[Row]:
    """Columns that are lists and structs become lists and objects; null is a missing field."""
    # Here, so that jobs with other data need not wait for it.
    from pyarrow import parquet  # noqa: PLC0415

    with tempfile.TemporaryFile() as whole:
        # Its directory is at its end, which a compressed stream cannot jump to.
        shutil.copyfileobj(stream, whole)
        number = 0
        with blamed_on(f"{uri} is not a whole Parquet file", reasons.INVALID_FILE, ADVICE):
            for batch in parquet.ParquetFile(whole).iter_batches(BATCH_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(_without_nulls(fields), Place(uri, number, "row"))


def _without_nulls(value: Any) -> Any:
    """An object of a column has all names that one of the column's objects has; those that it lacked are null."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
