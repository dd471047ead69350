"""s3:// URIs: the only module that talks to S3. It raises StoreErrors, which say what to do."""

import ssl
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError  # a response that is not S3's, such as a web console's page
from urllib3.exceptions import HTTPError  # botocore does not wrap it when a connection breaks within a response

from tuneyard_store import errors
from tuneyard_store.credentials import Credentials
from tuneyard_store.schemes.s3_upload import Sender, sending, upload_file
from tuneyard_store.store import ObjectInfo

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MULTIPART_BYTES: Final = 64 * 2**20  # of a download
FILES_AT_ONCE: Final = 4
CONNECT_SECONDS: Final = 4
READ_SECONDS: Final = 60
ATTEMPTS: Final = 3
DELETE_AT_ONCE: Final = 1000  # the limit of DeleteObjects

WRONG_CREDENTIALS: Final = {
    "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID",
    "XAdminUserNotFound": "AWS_ACCESS_KEY_ID",  # versitygw's name for it
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY",
    "InvalidToken": "AWS_SESSION_TOKEN",
    "ExpiredToken": "AWS_SESSION_TOKEN",
    "AuthorizationHeaderMalformed": "AWS_REGION",
}

# NoSuchUpload: another pod has completed the upload, or the store has dropped it.
TEMPORARY: Final = ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "NoSuchUpload")

NO_KEYS: Final = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
# The store cannot be reached, which is worth a retry; every other error of boto3 needs a person.
UNREACHABLE: Final = (ConnectionError, HTTPClientError, IncompleteReadError, HTTPError, Boto3Error)


class Location(NamedTuple):
    """A parsed s3://bucket/key."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "Location":
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise ValueError(f"{uri!r} is not s3://bucket/path")
        return cls(bucket, key)


class S3Store:
    """A Store (tuneyard_store.store) over one S3 endpoint, with one set of credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials

    def endpoint(self, uri: str) -> str:
        return self.credentials.endpoint_url or "AWS"

    @cached_property
    def _client(self) -> "S3Client":
        given = self.credentials
        config = Config(
            s3={"addressing_style": given.addressing_style},
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=16,
            # S3 servers other than AWS often reject the newer checksum trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.client(
            "s3",
            aws_access_key_id=given.access_key,
            aws_secret_access_key=given.secret_key,
            aws_session_token=given.session_token,
            endpoint_url=given.endpoint_url,
            region_name=given.region,
            verify=self._bundle(),
            config=config,
        )

    def _bundle(self) -> str | bool:
        """One file with the system's certificates and the private CA, because boto3 accepts only one."""
        if self.credentials.ca_file is None:
            return ssl.get_default_verify_paths().cafile or True
        system = ssl.get_default_verify_paths().cafile
        with tempfile.NamedTemporaryFile("wb", prefix="ca-", suffix=".pem", delete=False) as bundle:
            if system:
                bundle.write(Path(system).read_bytes() + b"\n")
            bundle.write(self.credentials.ca_file.read_bytes())
        return bundle.name

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        bucket, prefix = Location.parse(uri)
        with self._named_errors(uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for found in page.get("Contents", []):
                    key = found["Key"]
                    written = found["LastModified"].timestamp()
                    yield ObjectInfo(f"s3://{bucket}/{key}", key, found["Size"], found["ETag"].strip('"'), written)

    def exists(self, uri: str) -> bool:
        bucket, key = Location.parse(uri)
        try:
            with self._named_errors(uri), self._explained(bucket, key):
                self._client.head_object(Bucket=bucket, Key=key)
        except errors.ObjectNotFound:
            return False
        return True

    @contextmanager
    def open(self, uri: str) -> Iterator[IO[bytes]]:
        bucket, key = Location.parse(uri)
        with self._named_errors(uri):
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
            try:
                yield body  # type: ignore[misc]
            finally:
                body.close()

    def read(self, uri: str) -> bytes:
        with self.open(uri) as stream:
            return stream.read()

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        bucket, key = Location.parse(uri)
        with self._named_errors(uri):
            span = f"bytes={start}-{start + length - 1}"
            return self._client.get_object(Bucket=bucket, Key=key, Range=span)["Body"].read()

    def write(self, uri: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        bucket, key = Location.parse(uri)
        with self._named_errors(uri):
            self._client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=content_type)

    def upload(self, path: Path, uri: str) -> None:
        self.upload_all({uri: path})

    def upload_all(self, files: Mapping[str, Path]) -> dict[str, str]:
        with sending() as sender, ThreadPoolExecutor(max_workers=FILES_AT_ONCE) as pool:
            running = {uri: pool.submit(self._upload, path, uri, sender) for uri, path in files.items()}
            return {uri: done.result() for uri, done in running.items()}

    def _upload(self, path: Path, uri: str, sender: Sender) -> str:
        bucket, key = Location.parse(uri)
        with self._named_errors(uri):
            return upload_file(self._client, path, bucket, key, sender)

    def download(self, uri: str, path: Path) -> None:
        bucket, key = Location.parse(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._named_errors(uri), self._explained(bucket, key):
            self._client.download_file(bucket, key, str(path), Config=_transfer())
        path.chmod(0o644)

    def delete_prefix(self, uri: str) -> None:
        bucket, _ = Location.parse(uri)
        keys = [item.key for item in self.list(uri)]
        with self._named_errors(uri):
            for start in range(0, len(keys), DELETE_AT_ONCE):
                batch = [{"Key": key} for key in keys[start : start + DELETE_AT_ONCE]]
                self._client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})  # type: ignore[typeddict-item]

    def check_writable(self, uri: str) -> None:
        bucket, prefix = Location.parse(uri)
        probe = f"{prefix.rstrip('/')}/.tuneyard-write-check-{uuid4().hex}".lstrip("/")
        with self._named_errors(uri):
            self._client.put_object(Bucket=bucket, Key=probe, Body=b"")
            self._client.delete_object(Bucket=bucket, Key=probe)

    @contextmanager
    def _named_errors(self, uri: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error, HTTPError, ResponseParserError) as error:
            raise named_error(error, uri, self.credentials) from error

    @contextmanager
    def _explained(self, bucket: str, key: str) -> Iterator[None]:
        """A response to HEAD has no body, so it cannot name a missing bucket or a wrong access key; a listing can."""
        try:
            yield
        except ClientError as error:
            if _code(error) in {"403", "404"}:
                self._client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
            raise


def _transfer() -> TransferConfig:
    return TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def named_error(error: Exception, uri: str, credentials: Credentials) -> errors.StoreError:
    """The StoreError for an error of boto3; its text never contains a credential."""
    endpoint = credentials.endpoint_url or "AWS"
    if isinstance(error, ClientError):
        return _response_error(error, uri, endpoint)
    if isinstance(error, SSLError):
        return _tls_error(error, endpoint)
    if isinstance(error, NO_KEYS):
        return _without_keys(error, uri)
    cause = error.__cause__ or error.__context__
    if isinstance(error, Boto3Error) and isinstance(cause, ClientError | BotoCoreError):
        return named_error(cause, uri, credentials)
    if not isinstance(error, UNREACHABLE):
        return _misconfigured(error, uri, endpoint)
    return errors.StorageUnavailable(
        f"{endpoint} did not answer for {uri} ({type(error).__name__})",
        f"Check AWS_ENDPOINT_URL in the credentials Secret{_tls_hint(endpoint)} and that the store is up; "
        "this is tried again.",
    )


def _without_keys(error: Exception, uri: str) -> errors.StoreError:
    """The default chain found no keys, or who gives them to this pod's identity refused."""
    if isinstance(error, CredentialRetrievalError):
        return errors.InvalidCredentials(
            f"The pod's identity gets no keys for {uri}",
            "Give its service account access to the store, or name a Secret with keys.",
        )
    return errors.CredentialsMissing(
        f"No keys for {uri}",
        "Name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in spec.output.secretRef, or a service "
        "account with access to the store in spec.pod.serviceAccountName.",
    )


def _misconfigured(error: Exception, uri: str, endpoint: str) -> errors.StoreError:
    if isinstance(error, ParamValidationError):
        return errors.BucketNotFound(
            f"{Location.parse(uri).bucket!r} is not a bucket's name", f"Correct the bucket in {uri}."
        )
    return errors.StorageMisconfigured(
        f"{endpoint} cannot be used for {uri} ({type(error).__name__})",
        "Check that AWS_ENDPOINT_URL in the credentials Secret is the address of an S3 API, not of its web console.",
    )


def _tls_hint(endpoint: str) -> str:
    return " (https:// if it speaks TLS)" if endpoint.startswith("http://") else ""


def _tls_error(error: SSLError, endpoint: str) -> errors.StoreError:
    text = str(error).lower()
    if "doesn't match" in text or "mismatch" in text:
        return errors.UntrustedCertificate(
            f"The certificate of {endpoint} is for another name",
            "Write a name that it is for in AWS_ENDPOINT_URL, or give the store a certificate for this one.",
        )
    if "wrong version number" in text or "record layer" in text:
        return errors.UntrustedCertificate(
            f"{endpoint} does not speak TLS", "If it is a plain HTTP store, write http:// in AWS_ENDPOINT_URL."
        )
    return errors.UntrustedCertificate(
        f"The certificate of {endpoint} is not trusted",
        "Add the PEM of the CA that signed it as ca.crt to the credentials Secret.",
    )


def _response_error(error: ClientError, uri: str, endpoint: str) -> errors.StoreError:
    code = _code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    bucket = Location.parse(uri).bucket
    if code == "NoSuchBucket":
        return errors.BucketNotFound(
            f"Bucket {bucket} does not exist at {endpoint}", f"Create it, or correct the bucket in {uri}."
        )
    if key := WRONG_CREDENTIALS.get(code):
        return errors.InvalidCredentials(
            f"{endpoint} rejected the credentials for {uri} ({code})",
            f"Check {key} in the credentials Secret.",
        )
    if code == "AccessDenied" or status == 403:
        return errors.AccessDenied(
            f"{endpoint} denied {error.operation_name} on {uri}",
            f"Allow it for this access key (s3:{_action(error.operation_name)}), or use another key.",
        )
    if code in {"NoSuchKey", "NotFound", "404"}:
        return errors.ObjectNotFound(f"{uri} does not exist at {endpoint}", "Correct the path, or upload the object.")
    if status >= 500 or code in TEMPORARY or status == 429:
        return errors.StorageUnavailable(
            f"{endpoint} answered {code or status} for {uri}",
            "This is tried again; look at the store's log. AWS_ENDPOINT_URL must be its S3 API, not its web console.",
        )
    return errors.StoreError(
        f"{endpoint} answered {code or status} to {error.operation_name} on {uri}", "Look at the store's log."
    )


def _action(operation: str) -> str:
    """The IAM action of an operation: ListObjectsV2 needs s3:ListBucket, HeadObject needs s3:GetObject."""
    if operation in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"):
        return "PutObject"
    return {"ListObjectsV2": "ListBucket", "HeadObject": "GetObject"}.get(operation, operation)
