"""`tuneyard-server fetch`: downloads an artifact and verifies it, before an engine sees a byte of it."""

import logging
import time
from pathlib import Path

from tuneyard_server.termination import EXIT_BAD_INPUT, EXIT_TRY_AGAIN, write_message
from tuneyard_store.artifact import fetch_directory, read_manifest
from tuneyard_store.credentials import Credentials, from_environment, load_credentials
from tuneyard_store.errors import ObjectNotFound, StoreError
from tuneyard_store.schemes import open_store

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0


class Progress:
    """Says now and then how far the download is."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.started = self.said = time.monotonic()

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said >= REPORT_SECONDS or self.done == self.total:
            self.said = now
            rate = self.done / 1e6 / max(now - self.started, 1e-9)
            log.info("%d of %d MB, %.0f MB/s", self.done / 1e6, self.total / 1e6, rate)


def fetch(uri: str, digest: str, to: Path, credentials_dir: Path) -> int:
    """Returns an exit code: 0, 65 when the artifact is not what was asked for, 75 when the store is away."""
    try:
        store = open_store(credentials(credentials_dir))
        manifest = read_manifest(store, uri)
        log.info("fetching %s (%d files, %s)", uri, len(manifest.files), digest)
        fetch_directory(store, uri, to, digest, Progress(manifest.size_bytes))
    except StoreError as error:
        reason = "ArtifactNotFound" if isinstance(error, ObjectNotFound) else error.reason
        log.error("%s: %s", reason, error)  # noqa: TRY400 - the message is for people, the trace is not
        write_message(reason, error.message, error.advice)
        return EXIT_TRY_AGAIN if error.transient else EXIT_BAD_INPUT
    log.info("verified %s", digest)
    return 0


def credentials(directory: Path) -> Credentials:
    return load_credentials(directory) if directory.is_dir() else from_environment()
