"""Files that are something else than their name says: told by their first bytes, with what to do."""

import codecs
import re
from typing import Final

from tuneyard_trainer.runtime.userfiles import Mistaken, mistaken

HEAD_BYTES: Final = 4096
"""So many bytes of a file tell what it is."""

PARQUET: Final = b"PAR1"
TABLES: Final = (".csv", ".tsv")
_AS_UTF8: Final = "Write it as UTF-8, for example with iconv -f UTF-16 -t UTF-8."
_UNPACK: Final = "Unpack it, and upload the data files that are in it."
_NOT_DATA: Final = "Upload the rows as JSON Lines, JSON, CSV or Parquet."

_BEGINNINGS: Final[tuple[tuple[bytes, Mistaken], ...]] = (
    (PARQUET, Mistaken("is a Parquet file", "Give its name the ending .parquet.")),
    (b"\x1f\x8b", Mistaken("is compressed with gzip", "Give its name the ending .gz too, as in rows.jsonl.gz.")),
    (b"\x28\xb5\x2f\xfd", Mistaken("is compressed with zstd", "Give its name the ending .zst, as in rows.jsonl.zst.")),
    (b"BZh", Mistaken("is compressed with bzip2", "Compress it with gzip or zstd, or upload it uncompressed.")),
    (b"\xfd7zXZ", Mistaken("is compressed with xz", "Compress it with gzip or zstd, or upload it uncompressed.")),
    (b"PK\x03\x04", Mistaken("is a ZIP archive or an Excel workbook", "Unpack it, or save the sheet as CSV.")),
    (b"PK\x05\x06", Mistaken("is an empty ZIP archive", _NOT_DATA)),
    (b"7z\xbc\xaf", Mistaken("is a 7z archive", _UNPACK)),
    (b"Rar!", Mistaken("is a RAR archive", _UNPACK)),
    (b"\xd0\xcf\x11\xe0", Mistaken("is an old Excel or Word file", "Save the sheet as CSV (UTF-8).")),
    (b"\xff\xfe", Mistaken("is UTF-16, not UTF-8", _AS_UTF8)),
    (b"\xfe\xff", Mistaken("is UTF-16, not UTF-8", _AS_UTF8)),
    (b"ARROW1", Mistaken("is an Arrow (Feather) file", "Save it as Parquet.")),
    (b"SQLite format 3", Mistaken("is an SQLite database", "Export its rows as JSON Lines or CSV.")),
    (b"%PDF", Mistaken("is a PDF document", _NOT_DATA)),
    (b"\x89PNG", Mistaken("is an image", _NOT_DATA)),
    (b"\xff\xd8\xff", Mistaken("is an image", _NOT_DATA)),
    (b"\x89HDF", Mistaken("is an HDF5 file", _NOT_DATA)),
    (b"\x80\x04\x95", Mistaken("is a Python pickle", _NOT_DATA)),
)


def other_file(head: bytes, ending: str) -> Mistaken | None:
    """What a file is that begins with `head` (decompressed), if its rows cannot be read as its name says."""
    if ending == ".parquet":
        return None if head.startswith(PARQUET) else _not_parquet(head)
    for beginning, found in _BEGINNINGS:
        if head.startswith(beginning):
            return found
    if head[257:262] == b"ustar":
        return Mistaken("is a tar archive", _UNPACK)
    return (mistaken(head) if head else None) or _binary(head) or _other_text(head, ending)


def _not_parquet(head: bytes) -> Mistaken:
    if head.lstrip()[:1] in (b"{", b"["):
        return Mistaken("is JSON, not Parquet", "Give its name the ending .jsonl.")
    other = other_file(head, "")
    return other or Mistaken("is not a Parquet file", "Write it again, for example with pandas: to_parquet.")


def _binary(head: bytes) -> Mistaken | None:
    """Text has no NUL bytes, but for UTF-16 without a mark."""
    if b"\0" not in head:
        return None
    if not any(head):
        return Mistaken("has nothing but NUL bytes", "Its content was lost: upload it again from where it comes from.")
    if not any(head[1:64:2]) or not any(head[0:64:2]):
        return Mistaken("is UTF-16, not UTF-8", _AS_UTF8)
    return Mistaken("is a binary file", _NOT_DATA)


def _other_text(head: bytes, ending: str) -> Mistaken | None:
    """JSON in a .csv file, and tables in others."""
    lines = [line.strip() for line in head.removeprefix(codecs.BOM_UTF8).splitlines()[:5] if line.strip()]
    if not lines:
        return None
    if ending in TABLES:
        is_json = lines[0].startswith((b'{"', b"[{", b"{'"))
        return Mistaken("is JSON, not CSV", "Give its name the ending .jsonl.") if is_json else None
    return (
        Mistaken("looks like a table, not JSON", "Give its name the ending .csv or .tsv.") if _is_table(lines) else None
    )


def _is_table(lines: list[bytes]) -> bool:
    """Whether the lines have cells, and none begins as JSON does."""
    has_json = any(line.startswith((b"{", b"[")) for line in lines)
    return len(lines) > 1 and not has_json and all(re.search(rb"[,;\t]", line) for line in lines[:2])
