"""Loads images of docker into the node's containerd: only missing layers, and without a copy where possible."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tuneyard_cluster import engine, nodeimage, store, tools
from tuneyard_cluster.oci import Image, Layer, write_archive
from tuneyard_cluster.settings import Settings
from tuneyard_cluster.shell import Failed, Refused, run, say, step

CTR = ("ctr", "-n", "k8s.io")


@dataclass(frozen=True)
class Record:
    """The name of an image in containerd, and the digest of its manifest."""

    name: str
    digest: str


def load(names: list[str], settings: Settings) -> None:
    """Loads the images `names` (repository:tag) for pods, and removes older tags that docker does not have any more."""
    ids = {name: _image_id(name) for name in names}
    places = _linkable(settings)
    if places is None:
        with step(f"load {', '.join(names)}"):
            run(tools.ensure("kind", settings), "load", "docker-image", "--name", settings.name, *names)
        return
    for name, image_id in ids.items():
        _load(name, image_id, *places, settings)
    _prune(names, settings)


def _linkable(settings: Settings) -> tuple[Path, Path] | None:
    """The data-root of docker and the node's /var; None unless both are on this host and the node was built here."""
    root = engine.store()
    node_image = run("docker", "inspect", "--format", "{{.Config.Image}}", settings.node)
    if root is None or not node_image.startswith(nodeimage.REPOSITORY):
        return None
    var = store.node_var(root, settings)
    return (root, var) if var else None


def _load(name: str, image_id: str, root: Path, var: Path, settings: Settings) -> None:
    config, layers = store.read(root, image_id)
    image = Image((qualified(name),), config, tuple(Layer(layer.diff_id, layer.size, None) for layer in layers))
    if Record(qualified(name), image.digest) in _records(settings):
        say(f"    {name}: already in the node")
        return
    with step(f"load {name}"):
        linked = store.link_into_node(layers, var, settings)
        archive = io.BytesIO()
        write_archive(archive, [image])
        run("docker", "exec", "-i", settings.node, *CTR, "images", "import", "-", stdin=archive.getvalue())
        store.release(linked, settings)


def _image_id(name: str) -> str:
    try:
        return run("docker", "image", "inspect", "--format", "{{.Id}}", name)
    except Failed:
        raise Refused(f"docker has no image {name}; build it first.") from None


def qualified(name: str) -> str:
    """The full name of a docker image in containerd: registry, repository, tag."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"library/{name}"
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _ctr(settings: Settings, *arguments: str) -> str:
    return run("docker", "exec", settings.node, *CTR, *arguments)


def _records(settings: Settings) -> list[Record]:
    return parse_records(_ctr(settings, "images", "ls"))


def parse_records(table: str) -> list[Record]:
    """The records in the output of `ctr images ls`, whose columns are name, media type, digest, …"""
    return [Record(row[0], row[2]) for row in (line.split() for line in table.splitlines()[1:]) if len(row) > 2]


def _prune(names: Iterable[str], settings: Settings) -> None:
    kept = run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    used = [line.split()[1] for line in _ctr(settings, "containers", "ls").splitlines()[1:] if len(line.split()) > 1]
    if old := superseded(_records(settings), names, kept, used):
        _ctr(settings, "images", "rm", *old)
        say(f"    removed from the node: {', '.join(old)}")


def superseded(records: Iterable[Record], names: Iterable[str], kept: Iterable[str], used: Iterable[str]) -> list[str]:
    """The records to remove: other tags of the repositories in `names` that docker does not have and no container uses.

    The CRI plugin of containerd also has a record with the ID ("sha256:…") of each image, which keeps the layers too.
    """
    records = list(records)
    repositories = {qualified(name).rpartition(":")[0] for name in names}
    wanted = {qualified(name) for name in (*names, *kept)}
    in_use = {record.digest for record in records if record.name in set(used)}
    old = {
        record.digest
        for record in records
        if record.name.rpartition(":")[0] in repositories and record.name not in wanted
    }
    unused = old - in_use - {record.digest for record in records if record.name in wanted}
    return sorted(record.name for record in records if record.digest in unused)
