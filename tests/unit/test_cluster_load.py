"""Loading images: layers found in docker's store, archives without what the node has, only old tags removed."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tuneyard_cluster.load import Record, parse_records, qualified, superseded
from tuneyard_cluster.oci import Image, Layer, config, digest_of, tar_layer, write_archive
from tuneyard_cluster.shell import Failed
from tuneyard_cluster.store import StoredLayer, chain_ids, read, snapshot_directory


def layer(directory: Path, data: bytes) -> Layer:
    tar = directory / digest_of(data)
    tar.write_bytes(data)
    return tar_layer(tar)


def archive(*images: Image) -> dict[str, bytes]:
    stream = io.BytesIO()
    write_archive(stream, images)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def test_chain_ids_are_those_of_the_specification() -> None:
    first, second = digest_of(b"a"), digest_of(b"b")
    expected = "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_ids([first, second]) == [first, expected]
    assert chain_ids([]) == []


def test_layers_are_found_in_the_store(tmp_path: Path) -> None:
    diffs = [digest_of(b"a"), digest_of(b"b")]
    image_id = digest_of(b"image")
    document = json.dumps({"rootfs": {"diff_ids": diffs}}).encode()
    (tmp_path / "image/overlay2/imagedb/content/sha256").mkdir(parents=True)
    (tmp_path / "image/overlay2/imagedb/content" / image_id.replace(":", "/")).write_bytes(document)
    for number, chain in enumerate(chain_ids(diffs)):
        record = tmp_path / "image/overlay2/layerdb" / chain.replace(":", "/")
        record.mkdir(parents=True)
        (record / "cache-id").write_text(f"cache{number}")
        (record / "size").write_text(str(10 + number))

    expected = [
        StoredLayer(diff, chain, tmp_path / f"overlay2/cache{number}/diff", 10 + number)
        for number, (diff, chain) in enumerate(zip(diffs, chain_ids(diffs), strict=True))
    ]
    assert read(tmp_path, image_id) == (document, expected)


SNAPSHOTS = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"


@pytest.mark.parametrize(
    "mount",
    [
        f"mount -t bind {SNAPSHOTS}/35/fs /target -o rw,rbind",
        f"mount -t overlay overlay /target -o index=off,workdir={SNAPSHOTS}/35/work,"
        f"upperdir={SNAPSHOTS}/35/fs,lowerdir={SNAPSHOTS}/7/fs:{SNAPSHOTS}/6/fs",
    ],
)
def test_snapshot_is_written_to_the_mount(mount: str) -> None:
    expected = Path("/volume/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/35/fs")
    assert snapshot_directory(mount, Path("/volume")) == expected


def test_other_snapshotters_are_rejected() -> None:
    with pytest.raises(Failed, match="not an overlayfs snapshot"):
        snapshot_directory("mount -t btrfs /dev/sda /target", Path("/volume"))


def test_archive_holds_each_layer_once(tmp_path: Path) -> None:
    base, one, two = (layer(tmp_path, data) for data in (b"base" * 1000, b"one", b"two"))
    images = [
        Image(("docker.io/t/a:1", "docker.io/t/a:2"), config("amd64", [base, one]), (base, one)),
        Image(("docker.io/t/b:1",), config("amd64", [base, two], Entrypoint=["/b"]), (base, two)),
    ]
    written = archive(*images)
    assert len(written) == 2 + 2 * 2 + 3  # layout and index, config and manifest of two images, three layers
    assert written[blob(base.digest)] == b"base" * 1000
    index = json.loads(written["index.json"])["manifests"]
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index]
    assert names == ["docker.io/t/a:1", "docker.io/t/a:2", "docker.io/t/b:1"]
    for entry in index:
        manifest = json.loads(written[blob(entry["digest"])])
        document = json.loads(written[blob(manifest["config"]["digest"])])
        assert [part["digest"] for part in manifest["layers"]] == document["rootfs"]["diff_ids"]


def test_known_layers_are_not_written(tmp_path: Path) -> None:
    whole = layer(tmp_path, b"data")
    named = Layer(whole.digest, whole.size, None)
    image = Image(("docker.io/t/a:1",), config("amd64", [whole]), (whole,))
    thin = Image(image.names, image.config, (named,))
    assert thin.digest == image.digest
    assert set(archive(image)) - set(archive(thin)) == {blob(whole.digest)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tuneyard/trainer:abc", "docker.io/tuneyard/trainer:abc"),
        ("debian", "docker.io/library/debian:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("ghcr.io/x/y:1", "ghcr.io/x/y:1"),
    ],
)
def test_names_are_spelled_as_containerd_does(name: str, expected: str) -> None:
    assert qualified(name) == expected


def test_image_table() -> None:
    table = (
        "REF TYPE DIGEST SIZE PLATFORMS LABELS\n"
        "docker.io/tuneyard/a:1 application/vnd.oci.image.manifest.v1+json sha256:aa 1.0 MiB linux/amd64 -\n"
    )
    assert parse_records(table) == [Record("docker.io/tuneyard/a:1", "sha256:aa")]


RECORDS = [
    Record("docker.io/tuneyard/a:old", "sha256:m1"),
    Record("sha256:c1", "sha256:m1"),
    Record("docker.io/tuneyard/a:new", "sha256:m2"),
    Record("sha256:c2", "sha256:m2"),
    Record("docker.io/tuneyard/b:old", "sha256:m3"),
    Record("registry.k8s.io/pause:3.10", "sha256:m4"),
]


@pytest.mark.parametrize(
    ("kept", "used", "expected"),
    [
        ([], [], ["docker.io/tuneyard/a:old", "sha256:c1"]),
        (["tuneyard/a:old"], [], []),
        ([], ["docker.io/tuneyard/a:old"], []),
        ([], ["sha256:c1"], []),
    ],
)
def test_unused_images_are_removed(kept: list[str], used: list[str], expected: list[str]) -> None:
    assert superseded(RECORDS, ["tuneyard/a:new"], kept, used) == expected
