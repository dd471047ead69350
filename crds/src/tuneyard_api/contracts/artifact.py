"""The manifest of a published directory: manifest.json, written last."""

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from tuneyard_api.contracts.base import Contract

MANIFEST: Final = "manifest.json"


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _stays_inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or path in ("", MANIFEST):
        raise ValueError(f"{path!r} does not lie in the artifact's directory")
    return path


class ManifestFile(Contract):
    """One file of an artifact."""

    path: Annotated[str, AfterValidator(_stays_inside)]
    """Relative to the artifact's directory, with forward slashes."""
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(Contract):
    """The files of an artifact; its digest depends on their content alone."""

    format: str
    files: tuple[ManifestFile, ...]

    @property
    def digest(self) -> str:
        """sha256: over the canonical JSON of the files, in the order of their paths."""
        return "sha256:" + hashlib.sha256(canonical_json([file.wire() for file in self._sorted()])).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def _sorted(self) -> list[ManifestFile]:
        return sorted(self.files, key=lambda file: file.path)

    def to_json(self) -> bytes:
        wire = {"format": self.format, "digest": self.digest, "files": [file.wire() for file in self._sorted()]}
        return json.dumps(wire, indent=1).encode()
