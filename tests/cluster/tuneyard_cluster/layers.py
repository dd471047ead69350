"""Reading single layers out of Docker's overlay2 store, bit for bit.

`docker save` can only write whole images: 6 GB to bring 1 MB of changed code into a node. The store holds what is
needed to write one layer alone: its files, and tar-split's record of every byte between them.
Source: github.com/vbatts/tar-split, tar/storage; github.com/moby/moby, layer/filestore.go.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from tuneyard_cluster.oci import Layer

FILE, SEGMENT = 1, 2


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The digest of each layer together with all below it (image-spec, config.md, Layer ChainID)."""
    chain: list[str] = []
    for diff in diff_ids:
        both = f"{chain[-1]} {diff}".encode() if chain else None
        chain.append(f"sha256:{hashlib.sha256(both).hexdigest()}" if both else diff)
    return chain


def read_layers(store: Path, diff_ids: list[str]) -> tuple[Layer, ...]:
    """The layers of an image from the store below `store` (docker's data-root)."""
    return tuple(_layer(store, diff, chain) for diff, chain in zip(diff_ids, chain_ids(diff_ids), strict=True))


def _layer(store: Path, diff: str, chain: str) -> Layer:
    record = store / "image/overlay2/layerdb/sha256" / chain.removeprefix("sha256:")
    files = store / "overlay2" / (record / "cache-id").read_text() / "diff"
    split = record / "tar-split.json.gz"
    return Layer(diff, sum(map(_size, _entries(split))), lambda to: assemble(_entries(split), files, to))


def _entries(split: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(split, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _size(entry: dict[str, Any]) -> int:
    """Bytes of tar that an entry stands for."""
    if entry["type"] == FILE:
        return int(entry.get("size", 0))
    return len(base64.b64decode(entry["payload"]))


def assemble(entries: Iterable[dict[str, Any]], files: Path, to: IO[bytes]) -> None:
    """Writes the tar that tar-split took apart: recorded bytes, and the contents of the files between them."""
    for entry in entries:
        if entry["type"] == SEGMENT:
            to.write(base64.b64decode(entry["payload"]))
        elif entry.get("size"):
            with (files / _name(entry)).open("rb") as content:
                shutil.copyfileobj(content, to, 1 << 20)


def _name(entry: dict[str, Any]) -> str:
    if raw := entry.get("name_raw"):  # a name that is not UTF-8
        return base64.b64decode(raw).decode("utf-8", "surrogateescape")
    return str(entry["name"]).lstrip("/")
