"""Tokenized rows on disk: one NumPy file for each column, read through the page cache.

`<column>.npy` (int32) holds the values of all rows one after another. `offsets.npy` (int64) holds where the values of
each row begin, and where those of the last row end. A column with other lengths has its own `<column>.offsets.npy`.
"""

import io
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np

from tuneyard_trainer.data.columns import TokenizedRow

OFFSETS: Final = "offsets"
PENDING: Final = 2**16  # values of a column in memory


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
    """Appends rows to the files of a directory, so that only offsets stay in memory: 8 bytes for a row and column."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._columns: dict[str, _Column] = {}
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, row: Mapping[str, Sequence[int]]) -> None:
        """Raises ValueError when the row has other columns than the rows before it."""
        if not self._rows:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._columns = {name: _Column(self._directory / f"{name}.npy") for name in row}
        if row.keys() != self._columns.keys():
            raise ValueError(f"a row has the columns {sorted(row)}, the rows before it {sorted(self._columns)}")
        self._rows += 1
        for name, values in row.items():
            self._columns[name].add(values)

    def finish(self) -> None:
        """Makes the files whole."""
        self._directory.mkdir(parents=True, exist_ok=True)
        shared = next((column.offsets for column in self._columns.values()), array("q", [0]))
        np.save(self._directory / f"{OFFSETS}.npy", np.asarray(shared, dtype=np.int64))
        for name, column in self._columns.items():
            column.finish()
            if column.offsets != shared:
                np.save(self._directory / f"{name}.{OFFSETS}.npy", np.asarray(column.offsets, dtype=np.int64))


class _Column:
    """The file of one column; its bytes are those that numpy.save would write."""

    def __init__(self, path: Path) -> None:
        self.offsets = array("q", [0])
        self._pending = array("i")
        self._path = path
        self._path.write_bytes(_header(0))

    def add(self, values: Sequence[int]) -> None:
        self._pending.extend(values)
        self.offsets.append(self.offsets[-1] + len(values))
        if len(self._pending) >= PENDING:
            self._flush()

    def _flush(self) -> None:
        with self._path.open("ab") as stream:
            stream.write(self._pending.tobytes())
        self._pending = array("i")

    def finish(self) -> None:
        self._flush()
        with self._path.open("r+b") as stream:
            stream.write(_header(self.offsets[-1]))


def _header(values: int) -> bytes:
    """Of a file with so many int32 values. NumPy leaves space in it for the number to grow (numpy.lib.format)."""
    target = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False, "shape": (values,)}
    np.lib.format.write_array_header_1_0(target, shape)
    return target.getvalue()
