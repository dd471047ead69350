"""What is fuzzed of the object store: the manifest of an artifact, and the files of a Secret."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from botocore.awsrequest import AWSResponse, HTTPHeaders

from demo.certificates import make_authority
from support.memorystore import MemoryStore
from tuneyard_api import reasons
from tuneyard_store.artifact import describe_directory, fetch_directory
from tuneyard_store.credentials import load_credentials
from tuneyard_store.errors import StoreError
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.runtime.errors import StageError


def reason_of(read: Callable[[], object]) -> str:
    """The reason of the error with which `read` ends, which has a message and advice."""
    try:
        read()
    except (StoreError, StageError) as error:
        if not error.message or not error.advice:
            raise AssertionError(f"{error.reason} without a message or without advice") from error
        str(error).encode()
        return error.reason
    return reasons.COMPLETED


def manifest(data: bytes) -> str:
    """The manifest of an artifact that somebody fetches."""
    store = MemoryStore()
    store.objects = {"s3://out/artifact/manifest.json": data, "s3://out/artifact/a/config.json": b"{}"}
    with tempfile.TemporaryDirectory() as directory:
        return reason_of(lambda: fetch_directory(store, "s3://out/artifact", Path(directory)))


def manifests() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a" / "config.json"
        path.parent.mkdir()
        path.write_bytes(b"{}")
        return [describe_directory(Path(directory), "bf16").to_json()]


SECRET: Final = {
    "AWS_ACCESS_KEY_ID": "AKIA0123456789",
    "AWS_SECRET_ACCESS_KEY": "secret/key+0123456789",
    "AWS_SESSION_TOKEN": "token",
    "AWS_ENDPOINT_URL": "https://store.example:9000",
    "AWS_REGION": "eu-central-1",
    "AWS_S3_ADDRESSING_STYLE": "path",
    "ca.crt": make_authority("fuzz").certificate_pem,
}


def secret(data: bytes) -> str:
    """The files of a Secret, one a paragraph here; the store's requests end before they leave the machine."""
    with tempfile.TemporaryDirectory() as directory:
        for line in data.split(b"\n\n"):
            name, _, value = line.partition(b"=")
            if name.decode(errors="replace") in SECRET:
                (Path(directory) / name.decode()).write_bytes(value)
        return reason_of(lambda: _use(Path(directory)))


def _use(directory: Path) -> None:
    store = S3Store(load_credentials(directory, "keys"))
    _unplug(store)
    list(store.list("s3://bucket/prefix"))
    store.read("s3://bucket/key")
    store.write("s3://bucket/key", b"data")


class Empty:
    """The body of a response."""

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield b"<ListBucketResult/>"

    def read(self, *_: Any) -> bytes:
        return b""

    def close(self) -> None:
        """Nothing is open."""


def _unplug(store: S3Store) -> None:
    """The store's client answers every request itself, after it was signed."""

    def answer(request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, 200, HTTPHeaders(), Empty())

    with store._named_errors("s3://bucket/key"):
        events: Any = store._client.meta.events
        events.register("before-send.s3", answer)


def secrets() -> Sequence[bytes]:
    whole = [f"{name}={value}" for name, value in SECRET.items()]
    return ["\n\n".join(whole).encode(), "\n\n".join(whole[:2]).encode()]
