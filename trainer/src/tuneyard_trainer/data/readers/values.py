"""What all readers have in common: a bound on the size of one row, so that memory is bounded."""

from typing import Final

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import RowError

ROW_BYTES: Final = 64 * 2**20
"""More than one row of text has: a million tokens are about 4 MB."""


def too_large() -> RowError:
    return RowError(
        reasons.INVALID_ROW,
        f"larger than {ROW_BYTES // 2**20} MiB",
        "Split the row. If the file has no line ends, write one row per line.",
    )
