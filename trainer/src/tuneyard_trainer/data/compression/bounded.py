"""A bound on what a compressed file may decompress to: a bomb of some kilobytes would keep a stage busy for hours."""

import io
from pathlib import Path
from typing import IO, Final, cast

from tuneyard_api import reasons
from tuneyard_trainer.runtime.errors import BadInput

TIMES: Final = 200
"""Its size; JSON Lines shrink to a tenth."""
ALWAYS: Final = 256 * 2**20
"""Bytes that every file may decompress to."""
BUFFER: Final = 2**18


def bounded(stream: IO[bytes], path: Path, uri: str) -> IO[bytes]:
    """The decompressed content of the file at `path`.

    Reading raises BadInput that names `uri` where there is more than any data shrinks to.
    """
    return io.BufferedReader(_Bounded(stream, max(ALWAYS, TIMES * path.stat().st_size), uri), BUFFER)


class _Bounded(io.RawIOBase):
    def __init__(self, stream: IO[bytes], limit: int, uri: str) -> None:
        super().__init__()
        self._stream = cast(io.BufferedIOBase, stream)
        self._limit = limit
        self._uri = uri
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]", /) -> int:  # type: ignore[override]
        data = self._stream.read1(len(buffer))  # what comes before a damage is read
        buffer[: len(data)] = data
        self._read += len(data)
        if self._read > self._limit:
            raise BadInput(
                reasons.INVALID_FILE,
                f"{self._uri} decompresses to more than {self._limit // 2**20} MiB, {TIMES} times its size",
                "Look at what is in it. If it is right, upload it uncompressed.",
            )
        return len(data)
