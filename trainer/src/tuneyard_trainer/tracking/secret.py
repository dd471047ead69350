"""The access to a tracking server: a mounted Secret in a pod, variables of the same names on other machines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

URI: Final = "MLFLOW_TRACKING_URI"
TOKEN: Final = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - the name of a key
USERNAME: Final = "MLFLOW_TRACKING_USERNAME"
PASSWORD: Final = "MLFLOW_TRACKING_PASSWORD"  # noqa: S105 - the name of a key
CA: Final = "ca.crt"
KEYS: Final = (URI, TOKEN, USERNAME, PASSWORD, CA)
CA_VARIABLE: Final = "MLFLOW_TRACKING_SERVER_CERT_PATH"
"""MLflow's own: a PEM file."""


def files_of(directory: Path) -> dict[str, str]:
    """The keys of a mounted Secret that we know, as text; empty where there is none."""
    found = {key: directory / key for key in KEYS}
    return {key: path.read_bytes().decode(errors="replace") for key, path in found.items() if path.is_file()}


def variables_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The same from environment variables."""
    found = {key: environ[key] for key in KEYS if key in environ}
    bundle = Path(environ.get(CA_VARIABLE) or "/nonexistent")
    return found | ({CA: bundle.read_text()} if bundle.is_file() else {})
