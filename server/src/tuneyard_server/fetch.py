"""`tuneyard-server fetch`: downloads artifacts and verifies them, and checks the engine's options meanwhile."""

import errno
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_api import cpu, names, reasons
from tuneyard_api.contracts.termination import termination_message, write_termination_message
from tuneyard_api.registry import engine_of, loads
from tuneyard_server.engines.base import Cause
from tuneyard_server.vocabulary import difference
from tuneyard_store.artifact import fetch_directory, read_manifest
from tuneyard_store.credentials import from_environment, load_credentials
from tuneyard_store.errors import ObjectNotFound, StoreError
from tuneyard_store.schemes import open_store
from tuneyard_store.store import Store

log = logging.getLogger(__name__)

LOG_SECONDS: Final = 2.0
SAME_VOCABULARY: Final = "Take a draft model of the same family, with the same tokenizer."
WHERE_ADVICE: Final = (
    "Correct spec.model.uri: status.artifacts of the FineTuneJob has the URIs of what it has published. If it was "
    "deleted, delete what is left of the directory export of its run and set spec.rerun of the FineTuneJob to another "
    "value, or upload it again with tuneyard push."
)
DISK_ADVICE: Final = (
    "Use nodes with more disk, or raise limits.ephemeral-storage in spec.resources and spec.containers.fetch where it "
    "is set; docs/sizing.md tells how much is needed."
)
CPU_ADVICE: Final = (
    "Serve int8, bf16 or a GGUF format, use GPUs, or choose nodes with other CPUs by spec.resources.nodeSelector. What "
    "a FineTuneJob without GPUs recommends can be served on the CPUs of its own pods."
)
Check = Callable[[], Cause | None]


class Artifact(NamedTuple):
    """What to fetch, and where to."""

    uri: str
    digest: str
    to: Path


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


def fetch(
    model: Artifact,
    draft: Artifact | None,
    credentials_dir: Path,
    engine: str | None = None,
    check: Check = lambda: None,
    *,
    on_cpu: bool = False,
) -> int:
    """Returns an exit code: 0, 65 when something is missing, wrong or not the expected one, 75 when the store is away.

    Args:
        draft: the draft model of speculative decoding.
        engine: that will load them; artifacts of a format that it cannot load are refused.
        check: finds what is wrong with the engine's options; it runs while the artifacts are downloaded.
        on_cpu: whether the engine has no GPU; artifacts of a format that this CPU cannot serve are refused.
    """
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(check)
        try:
            in_secret = credentials_dir.is_dir()
            store = open_store(load_credentials(credentials_dir) if in_secret else from_environment())
            for artifact in filter(None, (draft, model)):
                _fetch(store, artifact, lambda form: _misfit(form, engine, on_cpu=on_cpu), checked)
        except StoreError as error:
            code = names.EXIT_TRY_AGAIN if error.transient else names.EXIT_BAD_INPUT
            return _refuse(Cause(error.message, error.reason, error.advice), code)
        except Unusable as error:
            return _refuse(error.cause, names.EXIT_BAD_INPUT)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return _refuse(Cause(f"The disk of the pod is full: {error}", reasons.DISK_FULL, DISK_ADVICE), 1)
        except OptionsWrong:
            log.info("the rest is not fetched")
    if cause := checked.result() or _vocabulary(model, draft):
        return _refuse(cause, names.EXIT_BAD_INPUT)
    return 0


class Unusable(Exception):
    """There is no artifact, or none that the engine can load."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


class OptionsWrong(Exception):
    """The engine's options are wrong, so the rest need not be fetched."""


def _misfit(artifact_format: str | None, engine: str | None, *, on_cpu: bool) -> Cause | None:
    """Why the engine cannot serve artifacts of a format."""
    if engine and not loads(engine, artifact_format):
        message = f"The artifact is {artifact_format}, which {engine} cannot load."
        return Cause(message, reasons.FORMAT_NOT_LOADABLE, f"Set spec.engine: {engine_of(artifact_format)}.")
    if on_cpu and (flag := cpu.missing_flag(artifact_format)):
        message = f"The artifact is {artifact_format}, which {engine} serves only on CPUs with {flag}."
        return Cause(message, reasons.FORMAT_NOT_LOADABLE, CPU_ADVICE)
    return None


def _fetch(
    store: Store,
    artifact: Artifact,
    misfit: Callable[[str | None], Cause | None],
    checked: "Future[Cause | None]",
) -> None:
    """Raises StoreError, Unusable, and OptionsWrong as soon as the check has found something."""
    try:
        manifest = read_manifest(store, artifact.uri)
    except ObjectNotFound as error:
        message = f"There is no artifact at {artifact.uri}: {error.message}"
        raise Unusable(Cause(message, reasons.ARTIFACT_NOT_FOUND, WHERE_ADVICE)) from error
    if cause := misfit(manifest.format):
        raise Unusable(cause)
    log.info("fetching %s (%d files, %s)", artifact.uri, len(manifest.files), artifact.digest)
    progress = Progress(manifest.size_bytes)

    def on_bytes(count: int) -> None:
        progress(count)
        if checked.done() and checked.result():
            raise OptionsWrong

    fetch_directory(store, artifact.uri, artifact.to, artifact.digest, on_bytes)
    log.info("verified %s", artifact.digest)


def _vocabulary(model: Artifact, draft: Artifact | None) -> Cause | None:
    found = difference(model.to, draft.to) if draft else None
    if draft is None or found is None:
        return None
    return Cause(f"{draft.uri} cannot draft for {model.uri}: {found}", reasons.VOCABULARY_DIFFERS, SAME_VOCABULARY)


def _refuse(cause: Cause, code: int) -> int:
    log.error("%s: %s", cause.reason, cause.message)
    write_termination_message(termination_message(cause.reason, cause.message, cause.advice))
    return code
