"""Image archives in the OCI layout, as a stream, with as many of their blobs as the reader lacks.

Source: github.com/opencontainers/image-spec, image-layout.md and manifest.md; the annotation is containerd's.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer: its digest is its diff ID."""

    digest: str  # sha256:…
    size: int  # bytes
    write: Callable[[IO[bytes]], None]


@dataclass(frozen=True)
class Image:
    names: tuple[str, ...]  # with registry: docker.io/tuneyard/trainer:abc
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def manifest(self) -> bytes:
        """The same bytes for the same image, so that its digest can be compared."""
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _descriptor("application/vnd.oci.image.config.v1+json", self.config),
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "digest": layer.digest,
                        "size": layer.size,
                    }
                    for layer in self.layers
                ],
            },
            sort_keys=True,
        ).encode()

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def tar_layer(path: Path) -> Layer:
    """A tar file as a layer."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def write(to: IO[bytes]) -> None:
        to.write(path.read_bytes())

    return Layer(f"sha256:{digest}", path.stat().st_size, write)


def config(architecture: str, layers: Iterable[Layer], **options: Any) -> bytes:
    """An image config; options are Entrypoint, Env and so on."""
    return json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": options,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        },
        sort_keys=True,
    ).encode()


def write_archive(to: IO[bytes], images: Iterable[Image], present: frozenset[str] = frozenset()) -> int:
    """Writes the images without the layers whose digests are `present`. Bytes of layers written."""
    entries, done, sent = [], set(present), 0
    _write(to, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    for image in images:
        for blob in (image.config, image.manifest):  # small: always there, whatever the reader believes to have
            _write(to, _blob(digest_of(blob)), blob)
        for layer in image.layers:
            if layer.digest not in done:
                _begin(to, _blob(layer.digest), layer.size)
                layer.write(to)
                _end(to, layer.size)
                done.add(layer.digest)
                sent += layer.size
        descriptor = _descriptor("application/vnd.oci.image.manifest.v1+json", image.manifest)
        entries += [descriptor | {"annotations": {"io.containerd.image.name": name}} for name in image.names]
    _write(to, "index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    to.write(bytes(2 * tarfile.BLOCKSIZE))
    return sent


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _write(to: IO[bytes], name: str, data: bytes) -> None:
    _begin(to, name, len(data))
    to.write(data)
    _end(to, len(data))


def _begin(to: IO[bytes], name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    to.write(member.tobuf(tarfile.GNU_FORMAT))  # GNU: a layer may be larger than 8 GiB


def _end(to: IO[bytes], size: int) -> None:
    to.write(bytes(-size % tarfile.BLOCKSIZE))
