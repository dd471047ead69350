"""Publishing an artifact while the program is killed and the store fails: all of it is there, or nothing names it."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Final

import pytest

from contract.s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, plain_versitygw
from support import publisher
from support.faultys3 import FAULTS, Fault, FaultyS3, faulty_s3, none, once, some
from tuneyard_api.contracts.artifact import MANIFEST, Manifest
from tuneyard_store.artifact import describe_directory, fetch_directory, publish_directory
from tuneyard_store.credentials import Credentials
from tuneyard_store.errors import StorageUnavailable
from tuneyard_store.schemes import s3_upload
from tuneyard_store.schemes.s3 import S3Store

ROOT: Final = f"s3://{BUCKET}/artifact"
KILLS: Final = 30
TRIES: Final = 40
PART_BYTES: Final = 5 * 2**20  # the smallest that S3 takes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyS3]:
    with plain_versitygw(tmp_path / "s3") as port, faulty_s3(port) as faulty:
        yield faulty


@pytest.fixture
def store(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setattr(s3_upload, "PART_BYTES", PART_BYTES)
    return S3Store(Credentials(ACCESS_KEY, SECRET_KEY, None, server.endpoint, addressing_style="path"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of two parts, and small ones."""
    directory = tmp_path / "folder"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(os.urandom(2 * PART_BYTES - 1000))
    for name in ("config.json", "tokenizer.json"):
        (directory / name).write_text(name)
    return directory


class Publishing:
    """Publishes the folder in processes of their own, which can be killed while the store answers them."""

    def __init__(self, server: FaultyS3, program: "subprocess.Popen[str]") -> None:
        self._server, self._program = server, program

    def run(self) -> int:
        """Undisturbed; how many requests it makes."""
        self._server.disturb(none)
        self._begin()
        assert self._line() == 0
        return self._server.requests

    def kill(self, at: int, fault: Fault) -> None:
        """At a request."""
        child: Queue[int] = Queue()

        def strike(number: int) -> Fault | None:
            if number == at:
                os.kill(child.get(timeout=60), signal.SIGKILL)
            return fault if number >= at else None

        self._server.disturb(strike)
        child.put(self._begin())
        assert self._line() == -signal.SIGKILL
        self._server.disturb(none)

    def _begin(self) -> int:
        assert self._program.stdin is not None
        self._program.stdin.write("\n")
        self._program.stdin.flush()
        return self._line()

    def _line(self) -> int:
        assert self._program.stdout is not None
        return int(self._program.stdout.readline())


@pytest.fixture
def publishing(server: FaultyS3, folder: Path) -> Iterator[Publishing]:
    keys = [ACCESS_KEY, SECRET_KEY, server.endpoint]
    command = [sys.executable, publisher.__file__, str(folder), ROOT, *keys, str(PART_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        yield Publishing(server, program)
        assert program.stdin is not None
        program.stdin.close()


def whole(store: S3Store, expected: Manifest, to: Path) -> bool:
    """Whether the artifact is there. Asserts that no object is there in part, and that a manifest names whole files."""
    sizes = {f"{ROOT}/{file.path}": file.size_bytes for file in expected.files}
    found = {item.uri: item.size for item in store.list(f"{ROOT}/")}
    is_named = found.pop(f"{ROOT}/{MANIFEST}", None) is not None
    assert found.items() <= sizes.items()
    if is_named:
        assert fetch_directory(store, ROOT, to) == expected
    return is_named


def test_killed_at_any_request(publishing: Publishing, store: S3Store, folder: Path, tmp_path: Path) -> None:
    """With SIGKILL, before the store hears of a request or after it has done what it was asked."""
    expected = describe_directory(folder, "x")
    requests = publishing.run()
    assert requests >= 8, "one for each part, and those around them"
    chance = random.Random(1)  # noqa: S311
    unfinished = 0
    for _ in range(KILLS):
        store.delete_prefix(f"{ROOT}/")
        publishing.kill(chance.randrange(requests), chance.choice(("cut", "lost")))
        unfinished += not whole(store, expected, tmp_path / "back")
        publishing.run()
        assert whole(store, expected, tmp_path / "back")
    assert unfinished > KILLS // 2


@pytest.mark.parametrize("seed", range(2))
def test_a_store_that_often_fails(server: FaultyS3, store: S3Store, folder: Path, tmp_path: Path, seed: int) -> None:
    """Three of ten requests: an error that is worth another try, until one has the same bytes."""
    expected = describe_directory(folder, "x")
    for _ in range(TRIES):
        server.disturb(some(0.3, seed))
        try:
            assert publish_directory(store, folder, ROOT, "x") == expected
        except StorageUnavailable:
            server.disturb(none)
            whole(store, expected, tmp_path / "back")
            seed += 100
        else:
            break
    server.disturb(none)
    assert whole(store, expected, tmp_path / "back")


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_at_every_request(
    server: FaultyS3, store: S3Store, folder: Path, tmp_path: Path, fault: Fault
) -> None:
    """Once: the client's own second try succeeds."""
    expected = describe_directory(folder, "x")
    publish_directory(store, folder, ROOT, "x")
    requests = server.requests
    for at in range(requests):
        store.delete_prefix(f"{ROOT}/")
        server.disturb(once(fault, at))
        assert publish_directory(store, folder, ROOT, "x") == expected
        server.disturb(none)
        assert whole(store, expected, tmp_path / "back")
