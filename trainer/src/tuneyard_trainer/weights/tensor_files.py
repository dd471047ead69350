"""Reads and writes safetensors files one tensor at a time, with plain reads and writes.

safetensors maps a whole file into memory and writes one from a dict of all its tensors. Here no more than one tensor is
in memory: mapped pages count as the memory of a pod until the kernel drops them.
"""

import json
import os
from pathlib import Path
from typing import IO, Any, Final, Self

import torch

from tuneyard_trainer.model.shape import HEADER_LENGTH, Header, TensorInfo, read_header

DTYPES: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
ALIGNMENT: Final = 8  # bytes of the header are a multiple of it, as safetensors writes them


Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Type (as safetensors writes it) and shape of each tensor of a file, in their order."""


class TensorReader:
    """The tensors of one file."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("rb", buffering=0)
        self.header: Header = read_header(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str, pinned: bool = False) -> torch.Tensor:
        """A copy of one tensor. Threads may read side by side.

        Args:
            pinned: in memory from which a GPU copies.

        Raises:
            ValueError: the file ends before the tensor does, or has a type that torch has not.
        """
        info = self.header.tensors[name]
        if info.dtype not in DTYPES:
            raise ValueError(f"{self._file.name}: {name} has the type {info.dtype}")
        data = torch.empty(info.end - info.begin, dtype=torch.uint8, pin_memory=pinned)
        left, at = memoryview(data.numpy()), self.header.data_start + info.begin
        while left:
            count = os.preadv(self._file.fileno(), [left], at)
            if not count:
                raise ValueError(f"{self._file.name} ends before {name} does")
            left, at = left[count:], at + count
        return data.view(DTYPES[info.dtype]).reshape(info.shape)


class TensorWriter:
    """A new file, whose tensors are written one after the other, in the order of `tensors`."""

    def __init__(self, path: Path, tensors: Layout) -> None:
        document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, (dtype, shape) in tensors.items():
            begin, end = end, end + torch.Size(shape).numel() * DTYPES[dtype].itemsize
            document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        self.names = tuple(tensors)
        self.size_bytes = end
        """Of the tensors."""
        self._expected = [(name, DTYPES[dtype], shape) for name, (dtype, shape) in reversed(tensors.items())]
        self._file: IO[bytes] = path.open("wb", buffering=0)
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self._file.write(len(text).to_bytes(HEADER_LENGTH, "little") + text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Writes the next tensor.

        Raises:
            ValueError: it is not the next one, or has another type or shape.
        """
        expected = self._expected.pop() if self._expected else None
        if (name, tensor.dtype, tuple(tensor.shape)) != expected:
            raise ValueError(f"{name} {tensor.dtype} {tuple(tensor.shape)} is not the next tensor: {expected}")
        left = memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())
        while left:
            left = left[self._file.write(left) :]


def layout(header: Header, dtype: str) -> Layout:
    """The tensors of a file in their order, with all floating-point ones in `dtype`."""

    def converted(info: TensorInfo) -> str:
        return dtype if DTYPES.get(info.dtype, torch.int8).is_floating_point else info.dtype

    return {name: (converted(info), info.shape) for name, info in header.tensors.items()}
