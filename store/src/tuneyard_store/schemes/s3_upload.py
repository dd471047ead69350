"""Uploads files to S3: each is read once, hashed as it is read, and sent in parts, several at a time.

An upload that broke off is resumed by the next one of the same object: parts that the store has already, with the same
content, are not sent again. The object appears when its last part is there, whole or not at all.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import md5, sha256
from pathlib import Path
from threading import BoundedSemaphore
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES: Final = 8 * 2**20
MAX_PARTS: Final = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
AT_ONCE: Final = 8
"""Parts that are in memory and on their way, of all files together."""


class Sender:
    """Sends parts in the background; no more than AT_ONCE are in memory."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool, self._slots = pool, BoundedSemaphore(AT_ONCE)

    def wait(self) -> None:
        """Waits until there is memory for another part."""
        self._slots.acquire()

    def release(self) -> None:
        """The part that was waited for is not sent."""
        self._slots.release()

    def send(self, client: "S3Client", target: "Target", number: int, data: bytes) -> "Future[str]":
        """Sends the part that was waited for; the result is its ETag."""
        future = self._pool.submit(_send, client, target, number, data)
        future.add_done_callback(lambda _: self._slots.release())
        return future


class Target(NamedTuple):
    """An upload that has begun."""

    bucket: str
    key: str
    upload: str
    """Its id."""


@contextmanager
def sending() -> Iterator[Sender]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield Sender(pool)


def upload_file(client: "S3Client", path: Path, bucket: str, key: str, sender: Sender) -> str:
    """Uploads a file; returns its SHA-256 in hexadecimal digits. Raises what boto3 raises."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= PART_BYTES:
            data = stream.read()
            client.put_object(Bucket=bucket, Key=key, Body=data)
            return sha256(data).hexdigest()
        target, there = _begun(client, bucket, key)
        digest, parts = _send_all(client, target, stream, part_bytes(size), there, sender)
    _complete(client, target, parts)
    return digest


def part_bytes(size: int) -> int:
    """Of a file of `size` bytes, all parts but the last: the same for each upload of the file."""
    smallest = -(-size // MAX_PARTS)
    return max(1, -(-smallest // PART_BYTES)) * PART_BYTES


def _send_all(
    client: "S3Client", target: Target, stream: IO[bytes], size: int, there: dict[int, str], sender: Sender
) -> tuple[str, list["CompletedPartTypeDef"]]:
    """The SHA-256 of the file, and its parts."""
    digest = sha256()
    sent: dict[int, Future[str]] = {}
    etags: dict[int, str] = {}
    number = 0
    while not any(future.done() and future.exception() for future in sent.values()):
        number += 1
        sender.wait()
        data = stream.read(size)
        if not data:
            sender.release()
            break
        digest.update(data)
        if number in there and there[number] == md5(data, usedforsecurity=False).hexdigest():
            etags[number] = there[number]
            sender.release()
        else:
            sent[number] = sender.send(client, target, number, data)
    etags |= {number: future.result() for number, future in sent.items()}
    return digest.hexdigest(), [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]


def _complete(client: "S3Client", target: Target, parts: list["CompletedPartTypeDef"]) -> None:
    bucket, key, upload = target
    try:
        client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    except ClientError as error:
        # Where the answer to a first try was lost, some stores know nothing of the upload: it is complete.
        if error.response["Error"]["Code"] != "NoSuchUpload" or not _consists_of(client, bucket, key, parts):
            raise


def _consists_of(client: "S3Client", bucket: str, key: str, parts: Sequence["CompletedPartTypeDef"]) -> bool:
    """Whether the object is there and has these parts, by its ETag; False also where the store has other ETags.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    try:
        found = client.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')
        digests = bytes.fromhex("".join(part["ETag"].strip('"') for part in parts))
    except (ClientError, ValueError):
        return False
    return found == f"{md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _send(client: "S3Client", target: Target, number: int, data: bytes) -> str:
    bucket, key, upload = target
    return client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=data)["ETag"]


def _begun(client: "S3Client", bucket: str, key: str) -> tuple[Target, dict[int, str]]:
    """An upload of the object that broke off, and the ETags of its parts; else a new one."""
    try:
        found = client.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", [])
        if own := [upload for upload in found if upload["Key"] == key]:
            newest = max(own, key=lambda upload: upload["Initiated"])["UploadId"]
            pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=newest)
            there = {part["PartNumber"]: part["ETag"].strip('"') for page in pages for part in page.get("Parts", [])}
            return Target(bucket, key, newest), there
    except ClientError:
        # Some stores cannot list uploads, some keys may not: a new upload works or says why not.
        pass
    return Target(bucket, key, client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]), {}
