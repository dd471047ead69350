"""Bringing docker's images into the node's containerd: only what it lacks, nothing written to disk on the way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tuneyard_cluster import engine, tools
from tuneyard_cluster.layers import read_layers
from tuneyard_cluster.oci import Image, write_archive
from tuneyard_cluster.settings import Settings
from tuneyard_cluster.shell import Failed, Refused, run, say, step

BLOBS = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"


@dataclass(frozen=True)
class Record:
    """A name in containerd, and the manifest that it means."""

    name: str
    digest: str


def load(names: list[str], settings: Settings) -> None:
    """Makes docker's images `names` (repository:tag) usable by pods; drops older tags that docker dropped too."""
    ids = {name: _image_id(name) for name in names}
    store = engine.store()
    if store is None:
        # Somebody else's engine or image store: its own way is the only one that is sure to work.
        run(tools.ensure("kind", settings), "load", "docker-image", "--name", settings.name, *names)
        return
    images = [_read(store, name, image_id) for name, image_id in ids.items()]
    records = _records(settings)
    lacking = [image for image in images if not _has(records, image)]
    for image in images:
        if image not in lacking:
            say(f"    {image.names[0]}: already in the node")
    if lacking:
        with step(f"load {', '.join(image.names[0] for image in lacking)}"):
            _import(lacking, settings)
    _prune(names, settings)


def _image_id(name: str) -> str:
    try:
        return run("docker", "image", "inspect", "--format", "{{.Id}}", name)
    except Failed:
        raise Refused(f"docker has no image {name}; build it first.") from None


def _read(store: Path, name: str, image_id: str) -> Image:
    config = (store / "image/overlay2/imagedb/content" / image_id.replace(":", "/")).read_bytes()
    return Image((qualified(name),), config, read_layers(store, json.loads(config)["rootfs"]["diff_ids"]))


def qualified(name: str) -> str:
    """A docker image name as containerd spells it: registry, repository, tag."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"library/{name}"
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _import(images: list[Image], settings: Settings) -> None:
    present = frozenset(_ctr(settings, "content", "ls", "-q").split())
    try:
        sent = _stream(images, present, settings)
    except Failed:
        # A blob may have been collected between the question and the import: then bring everything.
        sent = _stream(images, frozenset(), settings)
    say(f"    {sent / 1e6:,.0f} MB of layers sent")


def _stream(images: list[Image], present: frozenset[str], settings: Settings) -> int:
    command = ["docker", "exec", "-i", settings.node, "ctr", "-n", "k8s.io", "images", "import", "-"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdin and child.stdout
    sent = 0
    try:
        sent = write_archive(child.stdin, images, present)
        child.stdin.close()
    except BrokenPipeError:
        pass  # it says why, below
    said = child.stdout.read().decode(errors="replace")
    if child.wait():
        raise Failed(f"{' '.join(command)}: {said.strip()}")
    return sent


def _ctr(settings: Settings, *arguments: str) -> str:
    return run("docker", "exec", settings.node, "ctr", "-n", "k8s.io", *arguments)


def _records(settings: Settings) -> list[Record]:
    return parse_records(_ctr(settings, "images", "ls"))


def parse_records(table: str) -> list[Record]:
    """Rows of `ctr images ls`: name, media type, digest, …"""
    return [Record(row[0], row[2]) for row in (line.split() for line in table.splitlines()[1:]) if len(row) > 2]


def _has(records: Iterable[Record], image: Image) -> bool:
    return set(records) >= {Record(name, image.digest) for name in image.names}


def _prune(names: Iterable[str], settings: Settings) -> None:
    kept = run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    used = [line.split()[1] for line in _ctr(settings, "containers", "ls").splitlines()[1:] if len(line.split()) > 1]
    if old := superseded(_records(settings), names, kept, used):
        _ctr(settings, "images", "rm", *old)
        say(f"    removed from the node: {', '.join(old)}")


def superseded(records: Iterable[Record], names: Iterable[str], kept: Iterable[str], used: Iterable[str]) -> list[str]:
    """Records to remove: other tags of the repositories in `names` that docker does not keep and no container uses.

    containerd's CRI also files each image under its ID ("sha256:…"): those records hold the layers as well.
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
    gone = old - in_use - {record.digest for record in records if record.name in wanted}
    return sorted(record.name for record in records if record.digest in gone)
