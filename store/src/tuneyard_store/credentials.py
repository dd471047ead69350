"""Credentials of the object store, from the files of a Secret or from AWS_* environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast, get_args

from tuneyard_store.errors import CredentialsMissing

AddressingStyle = Literal["path", "virtual", "auto"]

CA_FILE: Final = "ca.crt"
DEFAULT_REGION: Final = "us-east-1"
KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
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
    found = {name: (directory / name).read_text().strip() for name in VARIABLES if (directory / name).is_file()}
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
    return _credentials(found, secret, ca_file if ca_file.is_file() else None)


def from_environment(environ: Mapping[str, str] = os.environ) -> Credentials:
    """Reads the AWS_* variables; AWS_CA_BUNDLE is the path of the additional PEM bundle."""
    bundle = environ.get("AWS_CA_BUNDLE")
    return _credentials(
        {name: environ[name] for name in VARIABLES if environ.get(name)}, "the environment", bundle and Path(bundle)
    )


def _credentials(found: Mapping[str, str], source: str, ca_file: Path | str | None) -> Credentials:
    endpoint = found.get("AWS_ENDPOINT_URL")
    # Few on-premises stores have a wildcard DNS name for their buckets.
    style = found.get("AWS_S3_ADDRESSING_STYLE", "path" if endpoint else "auto")
    if style not in get_args(AddressingStyle):
        raise CredentialsMissing(
            f"{source} has AWS_S3_ADDRESSING_STYLE={style}", "Write path, virtual or auto, or leave it out."
        )
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise CredentialsMissing(
            f"{source} has AWS_ENDPOINT_URL={endpoint}", "Write a URL that begins with https:// or http://."
        )
    return Credentials(
        access_key=found.get("AWS_ACCESS_KEY_ID"),
        secret_key=found.get("AWS_SECRET_ACCESS_KEY"),
        session_token=found.get("AWS_SESSION_TOKEN"),
        endpoint_url=endpoint,
        region=found.get("AWS_REGION", DEFAULT_REGION),
        addressing_style=cast(AddressingStyle, style),
        ca_file=Path(ca_file) if ca_file else None,
    )
