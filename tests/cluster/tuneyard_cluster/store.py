"""Docker's image store (overlay2) as a source of layers for the node's containerd.

Both keep a layer as a directory of files in overlayfs' own terms, whiteouts and all, and neither ever writes to
it again. So a layer goes from one to the other as hard links: seconds for gigabytes, and no disk.
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
    chain_id: str  # names the layer together with all below it, and so does containerd's snapshot
    files: Path
    size: int  # bytes, of the files


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """Layer ChainIDs, bottom first (image-spec, config.md)."""
    chain: list[str] = []
    for diff in diff_ids:
        chain.append(f"sha256:{hashlib.sha256(f'{chain[-1]} {diff}'.encode()).hexdigest()}" if chain else diff)
    return chain


def read(root: Path, image_id: str) -> tuple[bytes, list[StoredLayer]]:
    """An image's config, and its layers bottom first, from docker's data-root."""
    config = (root / "image/overlay2/imagedb/content" / image_id.replace(":", "/")).read_bytes()
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    return config, [_layer(root, diff, chain) for diff, chain in zip(diff_ids, chain_ids(diff_ids), strict=True)]


def _layer(root: Path, diff_id: str, chain_id: str) -> StoredLayer:
    record = root / "image/overlay2/layerdb" / chain_id.replace(":", "/")
    files = root / "overlay2" / (record / "cache-id").read_text() / "diff"
    return StoredLayer(diff_id, chain_id, files, int((record / "size").read_text()))


def node_var(root: Path, settings: Settings) -> Path | None:
    """The node's /var on this host, if layers can be linked from docker's store below `root` into it."""
    mounts = json.loads(run("docker", "inspect", "--format", "{{json .Mounts}}", settings.node))
    for mount in mounts:
        source = Path(mount.get("Source", ""))
        if mount["Destination"] == "/var" and os.access(source, os.W_OK) and os.access(root / "overlay2", os.R_OK):
            return source if source.stat().st_dev == (root / "overlay2").stat().st_dev else None
    return None


def link_into_node(layers: list[StoredLayer], var: Path, settings: Settings) -> list[str]:
    """Makes containerd snapshots of the layers that it lacks; their names. They are held until `release`."""
    snapshots = ("docker", "exec", settings.node, "ctr", "-n", "k8s.io", "snapshots")
    present = {line.split()[0] for line in run(*snapshots, "ls").splitlines()[1:]}
    made = []
    for below, layer in zip([None, *layers], layers, strict=False):
        if layer.chain_id in present:
            continue
        key = f"tuneyard-{layer.chain_id}"
        succeeds(*snapshots, "rm", key)  # of a run that was broken off
        run(*snapshots, "prepare", key, *([below.chain_id] if below else []))
        target = snapshot_directory(run(*snapshots, "mounts", "/target", key), var)
        run("cp", "--archive", "--link", f"{layer.files}/.", target)
        run(*snapshots, "commit", layer.chain_id, key)
        made.append(layer.chain_id)
    return made


def release(names: list[str], settings: Settings) -> None:
    """Lets containerd collect these snapshots once no image uses them: `ctr` marks what it makes as kept for ever."""
    for name in names:
        run(
            "docker", "exec", settings.node, "ctr", "-n", "k8s.io", "snapshots", "label", name, "containerd.io/gc.root="
        )


def snapshot_directory(mount: str, var: Path) -> Path:
    """Where on this host the files of a snapshot belong, from the mount command that containerd gives for it."""
    if found := re.search(r"(?:upperdir=|bind )/var(/\S*?/snapshots/\d+/fs)", mount):
        return var / found[1].lstrip("/")
    raise Failed(f"not an overlayfs snapshot: {mount}")
