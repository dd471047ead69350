"""The store against two real S3 servers over TLS."""

import os
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from contract import s3_servers
from contract.s3_servers import BUCKET, MANY, Server
from tuneyard_api.contracts.artifact import MANIFEST
from tuneyard_store import errors
from tuneyard_store.artifact import describe_directory, fetch_directory, publish_directory, read_manifest
from tuneyard_store.schemes import s3_upload
from tuneyard_store.schemes.s3 import MULTIPART_BYTES, S3Store

ROOT = f"s3://{BUCKET}"


@pytest.fixture(scope="module", params=["versitygw", "rclone"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    start = {"versitygw": s3_servers.versitygw, "rclone": s3_servers.rclone}[request.param]
    with TemporaryDirectory() as folder, start(Path(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def versitygw() -> Iterator[Server]:
    with TemporaryDirectory() as folder, s3_servers.versitygw(Path(folder)) as running:
        yield running


@pytest.fixture
def store(server: Server) -> S3Store:
    return server.store()


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A directory like an adapter's, with a file in a folder and an empty one."""
    directory = tmp_path / "artifact"
    (directory / "extra").mkdir(parents=True)
    (directory / "weights.safetensors").write_bytes(os.urandom(300_000))
    (directory / "config.json").write_text("{}")
    (directory / "extra" / "note ä+%.txt").write_text("a name that must be escaped")
    (directory / "empty").touch()
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_objects(store: S3Store, tmp_path: Path) -> None:
    uri = f"{ROOT}/round/trip ä+%.txt"
    assert not store.exists(uri)
    store.write(uri, b"hello", "text/plain")
    assert store.exists(uri)
    assert store.read(uri) == b"hello"
    store.download(uri, tmp_path / "deep" / "file")
    assert (tmp_path / "deep" / "file").read_bytes() == b"hello"
    assert [(item.uri, item.size) for item in store.list(f"{ROOT}/round/")] == [(uri, 5)]
    store.delete_prefix(f"{ROOT}/round/")
    assert not store.exists(uri)
    assert list(store.list(f"{ROOT}/round/")) == []


def test_multipart_upload(store: S3Store, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        for _ in range(5):
            file.write(os.urandom(MULTIPART_BYTES // 4))
    store.upload(big, f"{ROOT}/big/file")
    (info,) = store.list(f"{ROOT}/big/")
    assert info.size == big.stat().st_size > MULTIPART_BYTES
    store.download(f"{ROOT}/big/file", tmp_path / "back")
    downloaded, uploaded = describe_directory(tmp_path, "x").files
    assert (downloaded.size_bytes, downloaded.sha256) == (uploaded.size_bytes, uploaded.sha256)
    store.delete_prefix(f"{ROOT}/big/")


class Watched:
    """A client of boto3 that counts the parts it sends, and fails from one of them on."""

    def __init__(self, client: Any, fails_at: int = 1000) -> None:
        self._client, self._fails_at = client, fails_at
        self.parts: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def upload_part(self, **given: Any) -> Any:
        if given["PartNumber"] >= self._fails_at:
            raise EndpointConnectionError(endpoint_url="https://localhost")
        self.parts.append(given["PartNumber"])
        return self._client.upload_part(**given)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a file of four parts, of the smallest size that S3 takes."""
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * 2**20)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(os.urandom(18 * 2**20))
    (tmp_path / "weights" / "config.json").write_text("{}")
    return tmp_path / "weights"


def test_digests_are_of_what_was_sent(store: S3Store, weights: Path, tmp_path: Path) -> None:
    manifest = publish_directory(store, weights, f"{ROOT}/hashed", "bf16")
    assert manifest == describe_directory(weights, "bf16")
    fetch_directory(store, f"{ROOT}/hashed", tmp_path / "back", manifest.digest)
    assert contents(tmp_path / "back") == contents(weights)


def test_an_upload_is_resumed(versitygw: Server, weights: Path, tmp_path: Path) -> None:
    """Nothing is there before the whole is; of what broke off only the missing parts are sent."""
    store, file = versitygw.store(), weights / "model.safetensors"
    client = vars(store)["_client"] = Watched(store._client, fails_at=3)
    with pytest.raises(errors.StorageUnavailable):
        store.upload(file, f"{ROOT}/resumed/file")
    assert not store.exists(f"{ROOT}/resumed/file")
    sent = set(client.parts)
    assert sent <= {1, 2}
    again = vars(store)["_client"] = Watched(client._client)
    store.upload(file, f"{ROOT}/resumed/file")
    assert set(again.parts) == {1, 2, 3, 4} - sent != {1, 2, 3, 4}
    store.download(f"{ROOT}/resumed/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


class Forgetful(Watched):
    """Loses the answer to the completion of an upload, and knows nothing of it when it is asked again."""

    def __init__(self, client: Any, *, does_it: bool) -> None:
        super().__init__(client)
        self._does_it = does_it

    def complete_multipart_upload(self, **given: Any) -> Any:
        if self._does_it:
            self._client.complete_multipart_upload(**given)
        refusal: Any = {"Error": {"Code": "NoSuchUpload"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
        raise ClientError(refusal, "CompleteMultipartUpload")


def test_an_upload_that_is_complete_is_not_asked_for_twice(versitygw: Server, weights: Path) -> None:
    store, file = versitygw.store(), weights / "model.safetensors"
    client = store._client
    vars(store)["_client"] = Forgetful(client, does_it=False)
    with pytest.raises(errors.StorageUnavailable, match="NoSuchUpload"):
        store.upload(file, f"{ROOT}/forgotten/file")
    assert not store.exists(f"{ROOT}/forgotten/file")
    vars(store)["_client"] = Forgetful(client, does_it=True)
    store.upload(file, f"{ROOT}/forgotten/file")
    assert store.read(f"{ROOT}/forgotten/file") == file.read_bytes()


def test_parts_of_other_content_are_sent_again(versitygw: Server, weights: Path) -> None:
    store, file = versitygw.store(), weights / "model.safetensors"
    client = vars(store)["_client"] = Watched(store._client, fails_at=4)
    with pytest.raises(errors.StorageUnavailable):
        store.upload(file, f"{ROOT}/changed/file")
    file.write_bytes(os.urandom(18 * 2**20))
    vars(store)["_client"] = client._client
    store.upload(file, f"{ROOT}/changed/file")
    assert store.read(f"{ROOT}/changed/file") == file.read_bytes()


def test_list_pages(store: S3Store) -> None:
    assert [item.key for item in store.list(f"{ROOT}/many/")] == [f"many/{number:04}" for number in range(MANY)]
    store.delete_prefix(f"{ROOT}/many/")
    assert list(store.list(f"{ROOT}/many/")) == []


def test_artifact(store: S3Store, artifact: Path, tmp_path: Path) -> None:
    published = publish_directory(store, artifact, f"{ROOT}/art", "adapter")
    assert read_manifest(store, f"{ROOT}/art/") == published
    counted: list[int] = []
    fetched = fetch_directory(store, f"{ROOT}/art", tmp_path / "to", published.digest, counted.append)
    assert fetched == published == describe_directory(tmp_path / "to", "adapter")
    assert contents(tmp_path / "to") == contents(artifact)
    assert sum(counted) == published.size_bytes
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "to").rglob("*") if path.is_file()} == {0o644}


def test_corrupt_file(store: S3Store, artifact: Path, tmp_path: Path) -> None:
    good = publish_directory(store, artifact, f"{ROOT}/flipped", "adapter")
    uri = f"{ROOT}/flipped/weights.safetensors"
    data = bytearray(store.read(uri))
    data[1234] ^= 1
    store.write(uri, bytes(data))
    with pytest.raises(errors.ArtifactCorrupt) as caught:
        fetch_directory(store, f"{ROOT}/flipped", tmp_path / "to", good.digest)
    expected = next(file.sha256 for file in good.files if file.path == "weights.safetensors")
    assert uri in caught.value.message
    assert expected in caught.value.message
    assert caught.value.message.count("sha256:") == 2
    assert not (tmp_path / "to" / "weights.safetensors").exists()


def test_replaced_artifact(store: S3Store, artifact: Path, tmp_path: Path) -> None:
    before = publish_directory(store, artifact, f"{ROOT}/replaced", "adapter")
    (artifact / "config.json").write_text('{"other": 1}')
    after = publish_directory(store, artifact, f"{ROOT}/replaced", "adapter")
    with pytest.raises(errors.ArtifactCorrupt) as caught:
        fetch_directory(store, f"{ROOT}/replaced", tmp_path / "to", before.digest)
    assert before.digest in caught.value.message
    assert after.digest in caught.value.message
    assert not (tmp_path / "to").exists(), "nothing was downloaded"


def test_missing_file(store: S3Store, artifact: Path, tmp_path: Path) -> None:
    publish_directory(store, artifact, f"{ROOT}/gone", "adapter")
    store.delete_prefix(f"{ROOT}/gone/config.json")
    with pytest.raises(errors.ArtifactCorrupt, match=r"gone/config\.json"):
        fetch_directory(store, f"{ROOT}/gone", tmp_path / "to")


def test_missing_artifact(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(errors.ObjectNotFound, match=MANIFEST):
        fetch_directory(store, f"{ROOT}/nowhere", tmp_path / "to")


def test_manifest_is_written_last(store: S3Store, artifact: Path) -> None:
    """An upload that breaks off leaves no manifest."""
    (artifact / "weights.safetensors").chmod(0o644)
    manifest = describe_directory(artifact, "adapter")
    store.upload_all({f"{ROOT}/half/{file.path}": artifact / file.path for file in manifest.files})
    assert not store.exists(f"{ROOT}/half/{MANIFEST}")
    publish_directory(store, artifact, f"{ROOT}/half", "adapter")
    assert store.exists(f"{ROOT}/half/{MANIFEST}")


def test_check_writable(store: S3Store) -> None:
    store.check_writable(f"{ROOT}/out/put")
    assert list(store.list(f"{ROOT}/out/")) == []


def test_missing_bucket(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for act in (
        lambda: list(store.list("s3://nowhere/x")),
        lambda: store.exists("s3://nowhere/x"),
        lambda: store.read("s3://nowhere/x"),
        lambda: store.write("s3://nowhere/x", b""),
        lambda: store.upload(tmp_path / "file", "s3://nowhere/x"),
        lambda: store.download("s3://nowhere/x", tmp_path / "to"),
        lambda: store.check_writable("s3://nowhere/x"),
    ):
        with pytest.raises(errors.BucketNotFound, match="nowhere") as caught:
            act()
        assert store.endpoint("s3://nowhere/x") in caught.value.message


@pytest.mark.parametrize("change", [{"AWS_ACCESS_KEY_ID": "another-access-key"}, {"AWS_SECRET_ACCESS_KEY": "x" * 30}])
def test_wrong_keys(server: Server, tmp_path: Path, change: dict[str, str]) -> None:
    store = server.store(**change)
    for act in (
        lambda: store.download(f"{ROOT}/x", tmp_path / "to"),
        lambda: list(store.list(ROOT)),
        lambda: store.exists(f"{ROOT}/x"),
        lambda: store.write(f"{ROOT}/x", b""),
    ):
        with pytest.raises(errors.InvalidCredentials) as caught:
            act()
        assert s3_servers.SECRET_KEY not in str(caught.value)
        assert "x" * 30 not in str(caught.value)


def test_unknown_ca(server: Server) -> None:
    began = time.monotonic()
    with pytest.raises(errors.UntrustedCertificate, match=r"ca\.crt") as caught:
        server.store(ca_crt=None).read(f"{ROOT}/x")
    assert server.endpoint in caught.value.message
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("endpoint", ["https://localhost:1", "https://store.invalid"])
def test_unreachable_store(server: Server, endpoint: str) -> None:
    began = time.monotonic()
    with pytest.raises(errors.StorageUnavailable) as caught:
        server.store(AWS_ENDPOINT_URL=endpoint).read(f"{ROOT}/x")
    assert time.monotonic() - began < 15
    assert caught.value.transient
    assert endpoint in caught.value.message


def test_silent_store(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(errors.StorageUnavailable):
            server.store(AWS_ENDPOINT_URL=f"https://localhost:{silent.getsockname()[1]}").read(f"{ROOT}/x")
        assert time.monotonic() - began < 30


def test_certificate_name_mismatch(server: Server) -> None:
    with pytest.raises(errors.UntrustedCertificate, match="another name"):
        server.store(AWS_ENDPOINT_URL=f"https://127.0.0.1:{server.port}").read(f"{ROOT}/x")


def test_https_to_http_server(server: Server) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as plain:
        Thread(target=plain.serve_forever, daemon=True).start()
        with pytest.raises(errors.UntrustedCertificate, match="http://"):
            server.store(AWS_ENDPOINT_URL=f"https://localhost:{plain.server_port}").read(f"{ROOT}/x")
        plain.shutdown()


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Console</title><p>Log in")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_web_console(server: Server) -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as console:
        Thread(target=console.serve_forever, daemon=True).start()
        # botocore makes a 500 of a page with status 200.
        with pytest.raises(errors.StorageUnavailable, match="web console"):
            list(server.store(AWS_ENDPOINT_URL=f"http://localhost:{console.server_port}").list(ROOT))
        console.shutdown()


def test_invalid_bucket_name(store: S3Store) -> None:
    with pytest.raises(errors.BucketNotFound, match="no_t a name"):
        list(store.list("s3://no_t a name/x"))


def test_http_to_https_server(server: Server) -> None:
    with pytest.raises(errors.StoreError) as caught:
        server.store(AWS_ENDPOINT_URL=f"http://localhost:{server.port}").read(f"{ROOT}/x")
    assert "https://" in caught.value.advice


def test_read_only_account(versitygw: Server) -> None:
    s3_servers.add_reader(versitygw, "reader", "reader-secret-0123456789")
    owner = versitygw.store()
    owner.write(f"{ROOT}/readable", b"hello")
    client = owner._client  # the store itself sets no policies
    client.put_bucket_policy(Bucket=BUCKET, Policy=s3_servers.read_only_policy("reader"))
    reader = versitygw.store(AWS_ACCESS_KEY_ID="reader", AWS_SECRET_ACCESS_KEY="reader-secret-0123456789")
    assert reader.read(f"{ROOT}/readable") == b"hello"
    with pytest.raises(errors.AccessDenied, match="s3:PutObject"):
        reader.write(f"{ROOT}/x", b"")
    with pytest.raises(errors.AccessDenied, match="s3:PutObject"):
        reader.check_writable(f"{ROOT}/out")
