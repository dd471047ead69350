"""`tuneyard-server fetch`: downloads an artifact and verifies it before an engine reads it."""

import logging
import time
from pathlib import Path

from tuneyard_api import names, reasons
from tuneyard_api.contracts.termination import termination_message, write_termination_message
from tuneyard_store.artifact import fetch_directory, read_manifest
from tuneyard_store.credentials import from_environment, load_credentials
from tuneyard_store.errors import ObjectNotFound, StoreError
from tuneyard_store.schemes import open_store

log = logging.getLogger(__name__)

LOG_SECONDS = 2.0


class Progress:
    """Logs the progress of a download, every LOG_SECONDS at most and at its end."""

    def __init__(self, total_bytes: int) -> None:
        self.total = total_bytes
        self.done = 0
        self.started_at = self.logged_at = time.monotonic()

    def __call__(self, count: int) -> None:
        """Called with the number of bytes that have arrived since the last call."""
        self.done += count
        now = time.monotonic()
        if now - self.logged_at >= LOG_SECONDS or self.done == self.total:
            self.logged_at = now
            rate = self.done / 1e6 / max(now - self.started_at, 1e-9)
            log.info("%d of %d MB, %.0f MB/s", self.done / 1e6, self.total / 1e6, rate)


def fetch(uri: str, digest: str, to: Path, credentials_dir: Path) -> int:
    """Returns an exit code: 0, 65 when the artifact is missing or not the expected one, 75 when the store is away."""
    try:
        in_secret = credentials_dir.is_dir()
        store = open_store(load_credentials(credentials_dir) if in_secret else from_environment())
        manifest = read_manifest(store, uri)
        log.info("fetching %s (%d files, %s)", uri, len(manifest.files), digest)
        fetch_directory(store, uri, to, digest, Progress(manifest.size_bytes))
    except StoreError as error:
        reason = reasons.ARTIFACT_NOT_FOUND if isinstance(error, ObjectNotFound) else error.reason
        log.error("%s: %s", reason, error)  # noqa: TRY400 - the message is for people, the trace is not
        write_termination_message(termination_message(reason, error.message, error.advice))
        return names.EXIT_TRY_AGAIN if error.transient else names.EXIT_BAD_INPUT
    log.info("verified %s", digest)
    return 0
