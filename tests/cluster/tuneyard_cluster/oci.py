"""Image archives in the OCI layout.

Source: github.com/opencontainers/image-spec, image-layout.md and manifest.md; the annotation is containerd's.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer: its digest is its diff ID."""

    digest: str  # sha256:…
    size: int  # bytes
    tar: Path | None  # None where the reader of the archive has the layer already


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


def tar_layer(tar: Path) -> Layer:
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Layer(f"sha256:{digest}", tar.stat().st_size, tar)


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


def write_archive(to: IO[bytes], images: Iterable[Image]) -> None:
    """Writes the images; a layer that several share is written once."""
    entries, done = [], set()
    _write(to, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    for image in images:
        for blob in (image.config, image.manifest):
            _write(to, _blob(digest_of(blob)), blob)
        for layer in image.layers:
            if layer.tar and layer.digest not in done:
                _write(to, _blob(layer.digest), layer.tar.read_bytes())
                done.add(layer.digest)
        descriptor = _descriptor("application/vnd.oci.image.manifest.v1+json", image.manifest)
        entries += [descriptor | {"annotations": {"io.containerd.image.name": name}} for name in image.names]
    _write(to, "index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    to.write(bytes(2 * tarfile.BLOCKSIZE))


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _write(to: IO[bytes], name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    to.write(member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))
