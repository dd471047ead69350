"""Build contexts and tags as pure functions of the files: the same tree gives the same tag on every machine."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from .catalog import IMAGES, Image

_SKIPPED_NAMES = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".venv", "dist"}


Files = Mapping[str, tuple[bytes, int]]
"""Path in the build context -> content, and mode."""


def _source_files(root: Path, names: Iterable[str]) -> list[Path]:
    """All files under `names`, sorted, without caches and bytecode.

    Raises:
        FileNotFoundError: a name does not exist.
    """
    found: list[Path] = []
    for name in names:
        path = root / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing, but an image is built from it")
        inside = path.rglob("*") if path.is_dir() else [path]
        found += [file for file in inside if file.is_file() and not _SKIPPED_NAMES & set(file.relative_to(root).parts)]
    return sorted(file for file in found if file.suffix != ".pyc")


def collect(root: Path, names: Iterable[str], extra: Files | None = None) -> Files:
    """The files under `names`, and `extra`, which are not in the repository."""
    files = {
        str(file.relative_to(root)): (file.read_bytes(), 0o755 if file.stat().st_mode & 0o100 else 0o644)
        for file in _source_files(root, names)
    }
    return files | dict(extra or {})


def pack(files: Files) -> bytes:
    """A tar of the files, without times and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, (data, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def write(files: Files, folder: Path) -> None:
    """Writes the files below a folder."""
    for name, (data, mode) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)


def tag(root: Path, image: Image, args: Mapping[str, str], parents: Mapping[str, str]) -> str:
    """`tuneyard/<name>:<12 hex>`: SHA-256 over the Dockerfile, the copied files, build arguments and parents' tags."""
    digest = hashlib.sha256(pack(collect(root, (image.dockerfile, *image.files))))
    digest.update(json.dumps([image.name, dict(args), dict(parents)], sort_keys=True).encode())
    return f"tuneyard/{image.name}:{digest.hexdigest()[:12]}"


def is_from_catalog(reference: str) -> bool:
    """Whether `<repository>:<tag>` was built by images/build, and is not the test cluster's node or another build."""
    repository, _, version = reference.partition(":")
    return repository in {f"tuneyard/{image.name}" for image in IMAGES} and bool(re.fullmatch("[0-9a-f]{12}", version))


def arguments(image: Image, chosen: Mapping[str, str]) -> dict[str, str]:
    """The image's build arguments; `chosen` has the values of those that the catalog leaves open."""
    return {name: chosen[name] if value is None else value for name, value in image.args.items()}


def tags(root: Path, chosen: Mapping[str, str], images: Iterable[Image] = IMAGES) -> dict[str, str]:
    """The tag of every image. `images` are in build order: parents come first.

    Args:
        root: the repository.
        chosen: values of the build arguments that the catalog leaves open (BASE_IMAGE, VLLM_BUILD).
    """
    known: dict[str, str] = {}
    tools = {image.name for image in IMAGES if image.tool}
    for image in images:
        parents = {argument: known[name] for argument, name in image.parents.items() if name not in tools}
        known[image.name] = tag(root, image, arguments(image, chosen), parents)
    return known
