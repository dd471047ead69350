"""Loading images: single layers to the bit, archives without what is there, old tags and no others removed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import IO

import pytest
from tuneyard_cluster.layers import chain_ids, read_layers
from tuneyard_cluster.load import Record, parse_records, qualified, superseded
from tuneyard_cluster.oci import Image, Layer, config, digest_of, tar_layer, write_archive


def layer(data: bytes) -> Layer:
    def write(to: IO[bytes]) -> None:
        to.write(data)

    return Layer(digest_of(data), len(data), write)


def archive(*images: Image, present: frozenset[str] = frozenset()) -> dict[str, bytes]:
    stream = io.BytesIO()
    write_archive(stream, images, present)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_chain_ids_are_those_of_the_specification() -> None:
    first, second = digest_of(b"a"), digest_of(b"b")
    expected = "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_ids([first, second]) == [first, expected]
    assert chain_ids([]) == []


def test_a_layer_comes_out_of_the_store_to_the_bit(tmp_path: Path) -> None:
    tar, files = io.BytesIO(), {"etc/a": b"hello", "b\udcff": b"x" * 1000, "empty": b"", "etc/a2": b"again" * 300}
    with tarfile.open(fileobj=tar, mode="w") as out:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    whole = tar.getvalue()
    diff_id = digest_of(whole)
    _docker_store(tmp_path, whole, files, diff_id)

    (read,) = read_layers(tmp_path, [diff_id])
    written = io.BytesIO()
    read.write(written)
    assert written.getvalue() == whole
    assert read.size == len(whole)


def _docker_store(root: Path, whole: bytes, files: dict[str, bytes], diff_id: str) -> None:
    """The store as docker lays it out, taken apart as tar-split does."""
    record = root / "image/overlay2/layerdb/sha256" / diff_id.removeprefix("sha256:")
    record.mkdir(parents=True)
    (record / "cache-id").write_text("cache")
    entries, position = [], 0
    for name, data in files.items():
        start = whole.index(data, position + tarfile.BLOCKSIZE) if data else position + tarfile.BLOCKSIZE
        entries.append({"type": 2, "payload": base64.b64encode(whole[position:start]).decode()})
        raw = name.encode("utf-8", "surrogateescape")
        named = {"name": name} if raw.isascii() else {"name_raw": base64.b64encode(raw).decode()}
        entries.append({"type": 1, **named, **({"size": len(data)} if data else {})})
        position = start + len(data)
        file = root / "overlay2/cache/diff" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    entries.append({"type": 2, "payload": base64.b64encode(whole[position:]).decode()})
    with gzip.open(record / "tar-split.json.gz", "wt") as out:
        out.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_an_archive_holds_each_missing_layer_once() -> None:
    base, one, two = layer(b"base" * 1000), layer(b"one"), layer(b"two")
    images = [
        Image(("docker.io/t/a:1", "docker.io/t/a:2"), config("amd64", [base, one]), (base, one)),
        Image(("docker.io/t/b:1",), config("amd64", [base, two], Entrypoint=["/b"]), (base, two)),
    ]

    def blob(digest: str) -> str:
        return f"blobs/sha256/{digest.removeprefix('sha256:')}"

    whole = archive(*images)
    thin = archive(*images, present=frozenset({base.digest}))
    assert set(whole) - set(thin) == {blob(base.digest)}
    assert whole[blob(base.digest)] == b"base" * 1000
    assert thin[blob(two.digest)] == b"two"
    index = json.loads(thin["index.json"])["manifests"]
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index] == [
        "docker.io/t/a:1",
        "docker.io/t/a:2",
        "docker.io/t/b:1",
    ]
    for entry in index:
        manifest = json.loads(thin[blob(entry["digest"])])
        assert blob(manifest["config"]["digest"]) in thin
        assert [part["digest"] for part in manifest["layers"]] == json.loads(thin[blob(manifest["config"]["digest"])])[
            "rootfs"
        ]["diff_ids"]


def test_a_tar_file_is_a_layer(tmp_path: Path) -> None:
    (tmp_path / "l.tar").write_bytes(b"tar")
    assert tar_layer(tmp_path / "l.tar").digest == digest_of(b"tar")


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


def test_the_table_of_images_is_read() -> None:
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
def test_only_what_nobody_wants_is_removed(kept: list[str], used: list[str], expected: list[str]) -> None:
    assert superseded(RECORDS, ["tuneyard/a:new"], kept, used) == expected
