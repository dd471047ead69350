"""Without a server: URIs, credentials, errors, manifests, and the choice of a store by scheme."""

import hashlib
import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path

import botocore.exceptions
import pytest
import urllib3.exceptions
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from demo.certificates import make_authority
from tuneyard_api.contracts.artifact import Manifest, ManifestFile, canonical_json
from tuneyard_store import errors
from tuneyard_store.artifact import describe_directory, parse_manifest
from tuneyard_store.credentials import Credentials, from_environment, load_credentials
from tuneyard_store.schemes import SCHEMES, open_store
from tuneyard_store.schemes.s3 import Location, named_error
from tuneyard_store.schemes.s3_upload import part_bytes

SECRET = "the-secret-key"
CREDENTIALS = Credentials("the-access-key", SECRET, endpoint_url="https://store.example:9000")
URI = "s3://bucket/path/file"
CERTIFICATE = make_authority("a private CA").certificate_pem


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("s3://b/k", ("b", "k")), ("s3://b/k/l/", ("b", "k/l/")), ("s3://b", ("b", "")), ("s3://b/", ("b", ""))],
)
def test_addresses(uri: str, expected: tuple[str, str]) -> None:
    assert Location.parse(uri) == expected


@pytest.mark.parametrize("uri", ["", "b/k", "http://b/k", "s3:///k", "s3://"])
def test_invalid_addresses(uri: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/path"):
        Location.parse(uri)


def answer(code: str, status: int, operation: str = "PutObject") -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("code", "status", "expected", "word"),
    [
        ("NoSuchBucket", 404, errors.BucketNotFound, "bucket"),
        ("NoSuchKey", 404, errors.ObjectNotFound, URI),
        ("404", 404, errors.ObjectNotFound, URI),
        ("InvalidAccessKeyId", 403, errors.InvalidCredentials, "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, errors.InvalidCredentials, "AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", 400, errors.InvalidCredentials, "AWS_SESSION_TOKEN"),
        ("AuthorizationHeaderMalformed", 400, errors.InvalidCredentials, "AWS_REGION"),
        ("AccessDenied", 403, errors.AccessDenied, "s3:PutObject"),
        ("403", 403, errors.AccessDenied, "s3:PutObject"),
        ("SlowDown", 503, errors.StorageUnavailable, "SlowDown"),
        ("TooManyRequests", 429, errors.StorageUnavailable, "TooManyRequests"),
        ("InternalError", 500, errors.StorageUnavailable, "InternalError"),
        ("EntityTooLarge", 400, errors.StoreError, "EntityTooLarge"),
    ],
)
def test_responses_to_errors(code: str, status: int, expected: type[errors.StoreError], word: str) -> None:
    named = named_error(answer(code, status), URI, CREDENTIALS)
    assert type(named) is expected
    assert word in str(named)
    assert "https://store.example:9000" in named.message


def test_denied_names_the_iam_action() -> None:
    assert "s3:ListBucket" in named_error(answer("AccessDenied", 403, "ListObjectsV2"), URI, CREDENTIALS).advice
    assert "s3:GetObject" in named_error(answer("403", 403, "HeadObject"), URI, CREDENTIALS).advice


def every_botocore_error() -> Iterator[type[BotoCoreError]]:
    for _, kind in inspect.getmembers(botocore.exceptions, inspect.isclass):
        if issubclass(kind, BotoCoreError):
            yield kind


class AnyField(dict[str, str]):
    """Every field that an error's text may have; its value is the secret."""

    def __missing__(self, field: str) -> str:
        return SECRET


@pytest.mark.parametrize("kind", every_botocore_error(), ids=lambda kind: kind.__name__)
def test_botocore_errors(kind: type[BotoCoreError]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, kind.fmt.format_map(AnyField()) if hasattr(kind, "fmt") else SECRET)
    named = named_error(error, URI, CREDENTIALS)
    assert named.reason != "StorageError", "it has a reason of its own"
    assert named.message
    assert named.advice
    assert SECRET not in str(named)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (botocore.exceptions.ParamValidationError(report="x"), False),
        (ResponseParserError("x"), False),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), True),
        (S3UploadFailedError("x"), True),
    ],
)
def test_transient_errors(error: Exception, transient: bool) -> None:
    assert named_error(error, URI, CREDENTIALS).transient is transient


def test_urllib3_errors() -> None:
    broken = urllib3.exceptions.ProtocolError("Connection broken")
    assert isinstance(named_error(broken, URI, CREDENTIALS), errors.StorageUnavailable)


def test_upload_error_has_its_cause() -> None:
    upload = S3UploadFailedError("Failed to upload")
    upload.__context__ = answer("NoSuchBucket", 404)
    assert isinstance(named_error(upload, URI, CREDENTIALS), errors.BucketNotFound)


def test_error_classes() -> None:
    kinds = errors.StoreError.__subclasses__()
    assert all(kind.reason == kind.__name__ for kind in kinds)
    assert [kind for kind in kinds if kind.transient] == [errors.StorageUnavailable]


def secret(tmp_path: Path, **files: str) -> Path:
    files = {"AWS_ACCESS_KEY_ID": "key\n", "AWS_SECRET_ACCESS_KEY": f"{SECRET}\n"} | files
    for name, value in files.items():
        (tmp_path / name.replace("ca_crt", "ca.crt")).write_text(value)
    return tmp_path


def test_credentials_from_a_secret(tmp_path: Path) -> None:
    found = load_credentials(secret(tmp_path, AWS_ENDPOINT_URL="https://store", AWS_REGION="eu", ca_crt=CERTIFICATE))
    assert found == Credentials("key", SECRET, None, "https://store", "eu", "path", tmp_path / "ca.crt")
    assert SECRET not in repr(found)


def test_default_endpoint(tmp_path: Path) -> None:
    assert load_credentials(secret(tmp_path)) == Credentials("key", SECRET, addressing_style="auto")


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"AWS_ACCESS_KEY_ID": ""}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": " \n"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": ""}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "store:9000"}, "https://"),
        ({"AWS_ENDPOINT_URL": "https://"}, "https://"),
        ({"AWS_ENDPOINT_URL": "https://[::1"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "https://store:port"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "https://sto re"}, "AWS_ENDPOINT_URL"),
        ({"AWS_S3_ADDRESSING_STYLE": "Path"}, "virtual"),
        ({"AWS_REGION": "eu central"}, "AWS_REGION"),
        ({"AWS_REGION": "-"}, "AWS_REGION"),
        ({"AWS_ACCESS_KEY_ID": "two\nlines"}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": f"{SECRET}é"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SESSION_TOKEN": "a\x00b"}, "AWS_SESSION_TOKEN"),
        ({"ca_crt": ""}, "BEGIN CERTIFICATE"),
        ({"ca_crt": "MIIB"}, "BEGIN CERTIFICATE"),
        ({"ca_crt": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}, "BEGIN CERTIFICATE"),
    ],
)
def test_invalid_secret(tmp_path: Path, files: dict[str, str], word: str) -> None:
    with pytest.raises(errors.CredentialsMissing, match=word) as caught:
        load_credentials(secret(tmp_path, **files), name="s3-credentials")
    assert "Secret s3-credentials" in caught.value.message
    assert SECRET not in str(caught.value)


def test_secret_without_keys_leaves_them_to_the_default_chain(tmp_path: Path) -> None:
    """The pod's service account has access to the store: workload identity."""
    (tmp_path / "AWS_ENDPOINT_URL").write_text("https://store")
    (tmp_path / "ca.crt").write_text(CERTIFICATE)
    found = load_credentials(tmp_path)
    assert (found.access_key, found.secret_key) == (None, None)
    assert (found.endpoint_url, found.ca_file) == ("https://store", tmp_path / "ca.crt")


def test_secret_that_is_no_text(tmp_path: Path) -> None:
    (secret(tmp_path) / "AWS_SECRET_ACCESS_KEY").write_bytes(b"\xff\xfe" + SECRET.encode())
    with pytest.raises(errors.CredentialsMissing, match="key AWS_SECRET_ACCESS_KEY that is not text") as caught:
        load_credentials(tmp_path)
    assert SECRET not in str(caught.value)


def test_missing_secret(tmp_path: Path) -> None:
    """The kubelet mounts a Secret that does not exist, and is optional, as a directory with hidden entries."""
    (tmp_path / "mounted" / "..2030_01_02").mkdir(parents=True)
    (tmp_path / "mounted" / "..data").symlink_to("..2030_01_02")
    for directory in (tmp_path, tmp_path / "missing", tmp_path / "mounted"):
        with pytest.raises(errors.CredentialsMissing, match="Create it"):
            load_credentials(directory)


def test_credentials_from_the_environment() -> None:
    found = from_environment({"AWS_ENDPOINT_URL": "http://store", "AWS_CA_BUNDLE": "/ca.pem", "AWS_REGION": ""})
    assert found == Credentials(endpoint_url="http://store", addressing_style="path", ca_file=Path("/ca.pem"))
    assert from_environment({}) == Credentials()


def test_describe_directory(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b" / "manifest.json").write_bytes(b"")
    (tmp_path / "manifest.json").write_text("left by an earlier run")
    manifest = describe_directory(tmp_path, "bf16")
    assert manifest == manifest_of(file("a", 0), file("b/c", 3, b"two"), file("b/manifest.json", 0), form="bf16")
    assert manifest.size_bytes == 3
    assert parse_manifest(manifest.to_json(), URI) == manifest


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file(path: str, size_bytes: int, content: bytes = b"") -> ManifestFile:
    return ManifestFile(path=path, size_bytes=size_bytes, sha256=sha(content))


def manifest_of(*files: ManifestFile, form: str = "one") -> Manifest:
    return Manifest(format=form, files=files)


FILES = st.lists(
    st.builds(file, st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5})?", fullmatch=True), st.integers(0)),
    unique_by=lambda file: file.path,
)


@given(FILES, st.randoms())
def test_digest_depends_on_content(files: list[ManifestFile], random: object) -> None:
    shuffled = list(files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    manifest = manifest_of(*files)
    assert manifest.digest == manifest_of(*shuffled, form="another").digest
    assert parse_manifest(manifest.to_json(), URI).digest == manifest.digest
    for index, item in enumerate(files):
        changed = [*files[:index], item.model_copy(update={"size_bytes": item.size_bytes + 1}), *files[index + 1 :]]
        assert manifest_of(*changed).digest != manifest.digest


def test_digest_is_stable() -> None:
    manifest = manifest_of(file("a", 1, b"content"))
    canonical = b'[{"path":"a","sha256":"%s","sizeBytes":1}]' % sha(b"content").encode()
    assert manifest.digest == f"sha256:{sha(canonical)}"
    files = f'\n  {{\n   "path": "a",\n   "sizeBytes": 1,\n   "sha256": "{sha(b"content")}"\n  }}\n '
    text = f'{{\n "format": "one",\n "digest": "{manifest.digest}",\n "files": [{files}]\n}}'
    assert manifest.to_json().decode() == text


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "", "manifest.json"])
def test_manifest_path_outside(path: str) -> None:
    text = json.dumps({"format": "x", "files": [{"path": path, "sizeBytes": 1, "sha256": sha(b"")}]})
    with pytest.raises(errors.ArtifactCorrupt, match="does not lie in"):
        parse_manifest(text.encode(), URI)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x"}', '{"format": "x", "files": [{}]}', "\xff"])
def test_invalid_manifest(text: str) -> None:
    with pytest.raises(errors.ArtifactCorrupt, match=URI):
        parse_manifest(text.encode("latin-1"), URI)


def test_canonical_json() -> None:
    assert canonical_json({"b": 1, "a": "ä"}) == b'{"a":"\\u00e4","b":1}' == canonical_json({"a": "ä", "b": 1})


class MemoryStore:
    """As much of a Store as the test needs."""

    def __init__(self, credentials: Credentials) -> None:
        self.objects: dict[str, bytes] = {}

    def endpoint(self, uri: str) -> str:
        return "memory"

    def write(self, uri: str, data: bytes, content_type: str = "") -> None:
        self.objects[uri] = data

    def upload_all(self, files: dict[str, Path]) -> dict[str, str]:
        self.objects |= {uri: path.read_bytes() for uri, path in files.items()}
        return dict.fromkeys(files, type(self).__name__)

    def read(self, uri: str) -> bytes:
        return self.objects[uri]


def test_scheme_chooses_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for scheme in ("one", "two"):
        monkeypatch.setitem(SCHEMES, scheme, MemoryStore)
    store = open_store(CREDENTIALS)
    (tmp_path / "file").write_bytes(b"uploaded")
    store.write("one://bucket/a", b"written")
    sent = store.upload_all({"one://bucket/b": tmp_path / "file", "two://bucket/c": tmp_path / "file"})
    assert sent == {"one://bucket/b": "MemoryStore", "two://bucket/c": "MemoryStore"}
    assert store.read("one://bucket/a") == b"written"
    assert store.read("one://bucket/b") == store.read("two://bucket/c") == b"uploaded"
    assert (store.endpoint("one://bucket/a"), store.endpoint(URI)) == ("memory", "https://store.example:9000")


def test_unknown_scheme() -> None:
    with pytest.raises(errors.StorageMisconfigured, match="begins with s3://") as raised:
        open_store(CREDENTIALS).read("ftp://bucket/file")
    assert "ftp://bucket/file" in raised.value.message


@pytest.mark.parametrize(("size", "part"), [(1, 8), (80_000, 8), (80_001, 16), (5_000_000, 504)])
def test_parts_of_an_upload(size: int, part: int) -> None:
    """At most 10,000, of a multiple of 8 MiB, in MiB."""
    found = part_bytes(size * 2**20)
    assert found == part * 2**20
    assert math.ceil(size * 2**20 / found) <= 10_000
