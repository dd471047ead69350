"""Tokenized rows on disk: three NumPy files per split, read through the page cache, with no need for torch.

`input_ids.npy` and `labels.npy` hold all rows one after another, `offsets.npy` where each begins and the last ends.
"""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, overload

import numpy as np

IGNORED: Final = -100
"""The label of a token that is not trained (PyTorch's ignore_index)."""


class TokenizedRow(NamedTuple):
    input_ids: list[int]
    labels: list[int]
    """As long as input_ids; IGNORED where the token is not supervised."""


class TokenizedRows(Sequence[TokenizedRow]):
    """The rows of one split; each is read when it is asked for."""

    def __init__(self, directory: Path) -> None:
        self._input_ids = np.load(directory / "input_ids.npy", mmap_mode="r")
        self._labels = np.load(directory / "labels.npy", mmap_mode="r")
        self._offsets = np.load(directory / "offsets.npy")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> TokenizedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedRow]: ...
    def __getitem__(self, index: int | slice) -> TokenizedRow | list[TokenizedRow]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start, end = self._offsets[number], self._offsets[number + 1]
        return TokenizedRow(self._input_ids[start:end].tolist(), self._labels[start:end].tolist())


def read_rows(directory: Path) -> Sequence[TokenizedRow]:
    """The tokenized rows in `directory`."""
    return TokenizedRows(directory)


class ShardWriter:
    """Collects rows (4 bytes per token and array) and writes them at the end."""

    def __init__(self) -> None:
        self._input_ids, self._labels, self._offsets = array("i"), array("i"), array("q", [0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, row: TokenizedRow) -> None:
        self._input_ids.extend(row.input_ids)
        self._labels.extend(row.labels)
        self._offsets.append(len(self._input_ids))

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / "input_ids.npy", np.asarray(self._input_ids, dtype=np.int32))
        np.save(directory / "labels.npy", np.asarray(self._labels, dtype=np.int32))
        np.save(directory / "offsets.npy", np.asarray(self._offsets, dtype=np.int64))
