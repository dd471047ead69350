"""The image store of docker (overlay2) as a source of layers for the node's containerd.

Both store a layer as a directory in the format of overlayfs, with whiteouts, and never write to it again. So a layer
is shared by hard links, which takes seconds for gigabytes and no disk space.
Source: github.com/moby/moby, layer/filestore.go; github.com/containerd/containerd, snapshots/overlay/overlay.go.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tuneyard_cluster.settings import Settings
from tuneyard_cluster.shell import Failed, run, succeeds


@dataclass(frozen=True)
class StoredLayer:
    diff_id: str  # sha256 of its tar
    chain_id: str  # identifies the layer and all below it; the name of containerd's snapshot
    files: Path
    size: int  # bytes, of the files


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The ChainIDs of layers, bottom first (image-spec, config.md)."""
    chain: list[str] = []
    for diff in diff_ids:
        chain.append(f"sha256:{hashlib.sha256(f'{chain[-1]} {diff}'.encode()).hexdigest()}" if chain else diff)
    return chain


def read(root: Path, image_id: str) -> tuple[bytes, list[StoredLayer]]:
    """The config of an image and its layers, bottom first, from docker's data-root `root`."""
    config = (root / "image/overlay2/imagedb/content" / image_id.replace(":", "/")).read_bytes()
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    return config, [_layer(root, diff, chain) for diff, chain in zip(diff_ids, chain_ids(diff_ids), strict=True)]


def _layer(root: Path, diff_id: str, chain_id: str) -> StoredLayer:
    record = root / "image/overlay2/layerdb" / chain_id.replace(":", "/")
    files = root / "overlay2" / (record / "cache-id").read_text() / "diff"
    return StoredLayer(diff_id, chain_id, files, int((record / "size").read_text()))


def node_var(root: Path, settings: Settings) -> Path | None:
    """The directory on this host that is the node's /var, if files of docker's store `root` can be linked there."""
    mounts = json.loads(run("docker", "inspect", "--format", "{{json .Mounts}}", settings.node))
    for mount in mounts:
        source = Path(mount.get("Source", ""))
        if mount["Destination"] == "/var" and os.access(source, os.W_OK) and os.access(root / "overlay2", os.R_OK):
            return source if source.stat().st_dev == (root / "overlay2").stat().st_dev else None
    return None


def link_into_node(layers: list[StoredLayer], var: Path, settings: Settings) -> list[str]:
    """Creates the missing containerd snapshots of the layers and returns their names; they are kept until `release`."""
    snapshots = ("docker", "exec", settings.node, "ctr", "-n", "k8s.io", "snapshots")
    present = {line.split()[0] for line in run(*snapshots, "ls").splitlines()[1:]}
    created = []
    for below, layer in zip([None, *layers], layers, strict=False):
        if layer.chain_id in present:
            continue
        key = f"tuneyard-{layer.chain_id}"
        succeeds(*snapshots, "rm", key)  # from an interrupted run
        run(*snapshots, "prepare", key, *([below.chain_id] if below else []))
        target = snapshot_directory(run(*snapshots, "mounts", "/target", key), var)
        run("cp", "--archive", "--link", f"{layer.files}/.", target)
        run(*snapshots, "commit", layer.chain_id, key)
        created.append(layer.chain_id)
    return created


def release(names: list[str], settings: Settings) -> None:
    """Removes the label with which `ctr` keeps snapshots for ever: containerd then collects those that are unused."""
    for name in names:
        run(
            "docker", "exec", settings.node, "ctr", "-n", "k8s.io", "snapshots", "label", name, "containerd.io/gc.root="
        )


def snapshot_directory(mount: str, var: Path) -> Path:
    """The directory of a snapshot on this host, from the mount command of containerd for that snapshot."""
    if found := re.search(r"(?:upperdir=|bind )/var(/\S*?/snapshots/\d+/fs)", mount):
        return var / found[1].lstrip("/")
    raise Failed(f"not an overlayfs snapshot: {mount}")
