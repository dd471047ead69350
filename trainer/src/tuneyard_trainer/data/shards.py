"""Tokenized rows on disk: one NumPy file for each column, read through the page cache.

`<column>.npy` (int32) holds the values of all rows one after another. `offsets.npy` (int64) holds where the values of
each row begin, and where those of the last row end. A column with other lengths has its own `<column>.offsets.npy`.
"""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np

from tuneyard_trainer.data.columns import TokenizedRow

OFFSETS: Final = "offsets"


class TokenizedRows(Sequence[TokenizedRow]):
    """The rows of one split; a row is read when it is used."""

    def __init__(self, directory: Path) -> None:
        names = [path.stem for path in directory.glob("*.npy")]
        shared = np.load(directory / f"{OFFSETS}.npy")
        self._rows = len(shared) - 1
        self._columns: dict[str, tuple[Any, Any]] = {}
        for name in sorted(name for name in names if name.rsplit(".", 1)[-1] != OFFSETS):
            own = f"{name}.{OFFSETS}"
            offsets = np.load(directory / f"{own}.npy") if own in names else shared
            self._columns[name] = np.load(directory / f"{name}.npy", mmap_mode="r"), offsets

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(self._columns)

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row's longest column, without reading the rows."""
        if not self._columns:
            return []
        lengths: list[int] = np.maximum.reduce([np.diff(offsets) for _, offsets in self._columns.values()]).tolist()
        return lengths

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, index: int) -> TokenizedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedRow]: ...
    def __getitem__(self, index: int | slice) -> TokenizedRow | list[TokenizedRow]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return {
            name: values[offsets[number] : offsets[number + 1]].tolist()
            for name, (values, offsets) in self._columns.items()
        }


def read_rows(directory: Path) -> TokenizedRows:
    """The tokenized rows in `directory`."""
    return TokenizedRows(directory)


class ShardWriter:
    """Collects rows, 4 bytes for each value of a column and 8 for each offset, and writes them at the end."""

    def __init__(self) -> None:
        self._values: dict[str, array[int]] = {}
        self._offsets: dict[str, array[int]] = {}
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, row: TokenizedRow) -> None:
        """Raises ValueError when the row has other columns than the rows before it."""
        if not self._rows:
            self._values = {name: array("i") for name in row}
            self._offsets = {name: array("q", [0]) for name in row}
        if row.keys() != self._values.keys():
            raise ValueError(f"a row has the columns {sorted(row)}, the rows before it {sorted(self._values)}")
        self._rows += 1
        for name, values in row.items():
            self._values[name].extend(values)
            self._offsets[name].append(len(self._values[name]))

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        shared = next(iter(self._offsets.values()), array("q", [0]))
        np.save(directory / f"{OFFSETS}.npy", np.asarray(shared, dtype=np.int64))
        for name, values in self._values.items():
            np.save(directory / f"{name}.npy", np.asarray(values, dtype=np.int32))
            if self._offsets[name] != shared:
                np.save(directory / f"{name}.{OFFSETS}.npy", np.asarray(self._offsets[name], dtype=np.int64))
