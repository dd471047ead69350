"""The header of a safetensors file: names, types and shapes of its tensors, at the beginning of the file.

The format: 8 bytes with the length N of the header (little-endian), N bytes of JSON, then the tensors' bytes without
gaps (https://github.com/huggingface/safetensors#format).
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.model.shape import HEADER_LENGTH, MAX_HEADER_BYTES, TensorInfo

METADATA: Final = "__metadata__"
# Bits of a value.
BITS: Final[Mapping[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class InvalidHeader(ValueError):
    """The file is not safetensors; says why."""


class Truncated(InvalidHeader):
    """The file ends before its tensors do."""


def header_bytes(beginning: bytes, size: int) -> int:
    """The length of the header, with the 8 bytes before it, of a file of `size` bytes that begins so.

    Raises:
        InvalidHeader: this cannot be the beginning of a safetensors file.
    """
    length = int.from_bytes(beginning[:HEADER_LENGTH], "little")
    if not 2 <= length <= MAX_HEADER_BYTES or not beginning[HEADER_LENGTH:].startswith(b"{"):
        raise InvalidHeader("is not a safetensors file")
    if HEADER_LENGTH + length > size:
        raise Truncated("ends within its header")
    return HEADER_LENGTH + length


def parse_header(data: bytes, size: int) -> dict[str, TensorInfo]:
    """The tensors of a file of `size` bytes by their names; `data` is its beginning, to the end of the header.

    Raises:
        InvalidHeader: the header is wrong, or does not fit the size of the file.
    """
    try:
        document = json.loads(data[HEADER_LENGTH:].decode())
    except (ValueError, RecursionError) as error:
        raise InvalidHeader(f"has a header that is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise InvalidHeader("has a header that is not a JSON object")
    tensors = {name: _tensor(name, entry) for name, entry in document.items() if name != METADATA}
    end = _contiguous_end(tensors)
    if len(data) + end > size:
        raise Truncated(f"has {size} bytes, its header describes {len(data) + end}")
    if len(data) + end < size:
        raise InvalidHeader(f"has {size} bytes, its header describes only {len(data) + end}")
    return tensors


def _tensor(name: str, entry: Any) -> TensorInfo:
    """One entry, after its values were checked against each other."""
    if not isinstance(entry, dict):
        raise InvalidHeader(f"has a header whose entry {name} is no object")
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
    if not isinstance(shape, list) or not isinstance(offsets, list) or not isinstance(dtype, str):
        raise InvalidHeader(f"has a header whose entry {name} lacks dtype, shape or data_offsets")
    if len(offsets) != 2 or not all(_is_count(number) for number in (*shape, *offsets)):
        raise InvalidHeader(f"has a header whose entry {name} has a wrong shape or data_offsets")
    if dtype not in BITS:
        raise InvalidHeader(f"has a tensor {name} of the unknown type {dtype}")
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * BITS[dtype]:
        raise InvalidHeader(f"has a tensor {name} whose data_offsets do not fit its shape")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63


def _contiguous_end(tensors: Mapping[str, TensorInfo]) -> int:
    """Where the bytes end; raises InvalidHeader where there are gaps or overlaps."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.begin != end:
            raise InvalidHeader(f"has a tensor {name} that does not begin where the one before it ends")
        end = tensor.end
    return end
