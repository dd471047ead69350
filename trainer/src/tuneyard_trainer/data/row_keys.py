"""The keys of many rows."""

from collections.abc import Iterable, Sequence
from typing import overload

from tuneyard_trainer.data.examples import KEY_BYTES, Key


class RowKeys(Sequence[Key]):
    """The keys of rows one after another, in a quarter of the memory that a list of them takes."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._bytes = bytearray(b"".join(keys))

    def append(self, key: Key) -> None:
        self._bytes += key

    def __len__(self) -> int:
        return len(self._bytes) // KEY_BYTES

    @overload
    def __getitem__(self, index: int) -> Key: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Key]: ...
    def __getitem__(self, index: int | slice) -> Key | Sequence[Key]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        begin = KEY_BYTES * range(len(self))[index]
        return bytes(self._bytes[begin : begin + KEY_BYTES])
