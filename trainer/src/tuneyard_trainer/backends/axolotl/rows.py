"""Tokenized rows as a Parquet file with the columns by which Axolotl knows that they are tokenized."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import parquet

from tuneyard_trainer.data.columns import INPUT_IDS, LABELS, TokenizedRow

MASK: Final = "attention_mask"
SCHEMA: Final = pa.schema([(name, pa.list_(pa.int32())) for name in (INPUT_IDS, MASK, LABELS)])
BATCH_ROWS: Final = 1024


def write_parquet(path: Path, rows: Sequence[TokenizedRow], order: Sequence[int]) -> None:
    """Writes the rows of these numbers, in this order; a batch of them is in memory."""
    with parquet.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(order), BATCH_ROWS):
            writer.write_table(_table([rows[number] for number in order[start : start + BATCH_ROWS]]))


def _table(rows: Sequence[TokenizedRow]) -> pa.Table:
    columns = {
        INPUT_IDS: [row[INPUT_IDS] for row in rows],
        MASK: [[1] * len(row[INPUT_IDS]) for row in rows],
        LABELS: [row[LABELS] for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)
