"""The API keys that the proxy accepts, from a mounted Secret."""

import re
from pathlib import Path


class InvalidKeyError(ValueError):
    """The key file holds no key, or one that no Authorization header can carry."""


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one a line.

    Raises:
        InvalidKeyError: there is no key, or one is not 8 to 512 printable ASCII characters without spaces.
    """
    lines = path.read_text().split("\n") if path.is_file() else []
    keys = [key for line in lines if (key := line.strip("\r "))]
    if not keys:
        raise InvalidKeyError(f"{path} holds no API key. Put one of 8 to 512 characters there, or remove spec.auth.")
    if any(not re.fullmatch(r"[\x21-\x7e]{8,512}", key) for key in keys):
        raise InvalidKeyError(
            f"{path} holds an API key that is not 8 to 512 printable ASCII characters without spaces. Use such a key."
        )
    return keys


def mounted_keys(path: Path) -> list[str]:
    """The keys of a mounted Secret; an empty list where no Secret is mounted, so that no key is needed.

    Raises:
        InvalidKeyError: a Secret is mounted, but has no usable key. The endpoint must not be open by mistake.
    """
    return read_keys(path) if path.parent.is_dir() else []
