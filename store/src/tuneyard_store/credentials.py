"""Credentials of the object store, from the files of a Secret or from AWS_* environment variables."""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast, get_args
from urllib.parse import urlsplit

from tuneyard_store.errors import CredentialsMissing

AddressingStyle = Literal["path", "virtual", "auto"]

CA_FILE: Final = "ca.crt"
PEM_ADVICE: Final = "Write the PEM of the CA there: it begins with -----BEGIN CERTIFICATE-----."
DEFAULT_REGION: Final = "us-east-1"
KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
# What boto3 accepts as a region, and host names and addresses in a URL.
REGION: Final = re.compile(r"(?![0-9]+$)(?!-)[a-zA-Z0-9-]{1,63}(?<!-)")
HOST: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?|[0-9a-fA-F:.]+")
VARIABLES: Final = (
    *KEYS,
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_S3_ADDRESSING_STYLE",
)


@dataclass(frozen=True)
class Credentials:
    """Keys and endpoint of a store. Without an endpoint it is AWS; without keys, boto3's default chain finds them."""

    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None
    region: str = DEFAULT_REGION
    addressing_style: AddressingStyle = "auto"
    ca_file: Path | None = None
    """A PEM bundle that is trusted in addition to the system's certificates."""


def load_credentials(directory: Path, name: str = "") -> Credentials:
    """Reads the files of a mounted Secret.

    A Secret without the two keys says where the store is; the pod's own identity (workload identity) is used then.

    Args:
        name: the Secret's, for messages.

    Raises:
        CredentialsMissing: the directory is missing or empty, it has one of the two keys only, or a value is invalid.
    """
    secret = f"Secret {name}" if name else f"{directory}"
    ca_file = directory / CA_FILE
    found = {name: _value(directory / name, secret) for name in VARIABLES if (directory / name).is_file()}
    if not found and not ca_file.is_file():
        raise CredentialsMissing(
            f"{secret} does not exist or is empty",
            "Create it in the same namespace with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "and AWS_ENDPOINT_URL for a store that is not AWS's.",
        )
    if any(key in found for key in KEYS):
        for required in KEYS:
            if not found.get(required):
                raise CredentialsMissing(f"{secret} has no {required}", f"Add the key {required} to it.")
    if ca_file.is_file():
        _check_certificates(ca_file, secret)
    return _credentials(found, secret, ca_file if ca_file.is_file() else None)


def _value(path: Path, secret: str) -> str:
    """The text of one key of a Secret, which no message shows."""
    try:
        return path.read_bytes().decode().strip()
    except UnicodeDecodeError as error:
        raise CredentialsMissing(f"{secret} has a key {path.name} that is not text", _again(path.name)) from error


def _check_certificates(path: Path, secret: str) -> None:
    """Raises CredentialsMissing when a file has no certificate that can be read."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        what = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise CredentialsMissing(
            f"{secret} has a {CA_FILE} that is not a certificate in PEM ({what})", PEM_ADVICE
        ) from error


def _again(name: str) -> str:
    return f"Write {name} again, for example with kubectl create secret generic --from-literal={name}=..."


def from_environment(environ: Mapping[str, str] = os.environ) -> Credentials:
    """Reads the AWS_* variables; AWS_CA_BUNDLE is the path of the additional PEM bundle."""
    bundle = environ.get("AWS_CA_BUNDLE")
    return _credentials(
        {name: environ[name] for name in VARIABLES if environ.get(name)}, "the environment", bundle and Path(bundle)
    )


def _credentials(found: Mapping[str, str], source: str, ca_file: Path | str | None) -> Credentials:
    for name, value in found.items():
        if not value.isascii() or not value.isprintable() or " " in value:
            raise CredentialsMissing(
                f"{source} has a value of {name} with blanks, line ends or other characters that no key has",
                _again(name),
            )
    endpoint = found.get("AWS_ENDPOINT_URL")
    # Few on-premises stores have a wildcard DNS name for their buckets.
    style = found.get("AWS_S3_ADDRESSING_STYLE", "path" if endpoint else "auto")
    if style not in get_args(AddressingStyle):
        raise CredentialsMissing(
            f"{source} has AWS_S3_ADDRESSING_STYLE={style}", "Write path, virtual or auto, or leave it out."
        )
    if endpoint is not None and not _is_url(endpoint):
        raise CredentialsMissing(
            f"{source} has AWS_ENDPOINT_URL={endpoint}",
            "Write a URL that begins with https:// or http://, such as https://store.example:9000.",
        )
    region = found.get("AWS_REGION", DEFAULT_REGION)
    if not REGION.fullmatch(region):
        raise CredentialsMissing(
            f"{source} has AWS_REGION={region}", f"Write a region's name, such as {DEFAULT_REGION}, or leave it out."
        )
    return Credentials(
        access_key=found.get("AWS_ACCESS_KEY_ID"),
        secret_key=found.get("AWS_SECRET_ACCESS_KEY"),
        session_token=found.get("AWS_SESSION_TOKEN"),
        endpoint_url=endpoint,
        region=region,
        addressing_style=cast(AddressingStyle, style),
        ca_file=Path(ca_file) if ca_file else None,
    )


def _is_url(text: str) -> bool:
    """Whether the text is the URL of a server."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and HOST.fullmatch(parts.hostname or "") is not None
