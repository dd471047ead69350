"""`tuneyard-server proxy`: runs nginx in front of the engine, follows key changes, and drains before it ends."""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tuneyard_server.proxy.config import InvalidKeyError, read_keys, render
from tuneyard_server.termination import EXIT_BAD_INPUT, write_message

log = logging.getLogger(__name__)

Nginx = subprocess.Popen[bytes]
Rewrite = Callable[[list[str]], None]

KEY_POLL_SECONDS = 5.0
POLL_SECONDS = 0.2


def serve(socket: Path, scratch: Path, key_file: Path, drained: Path, drain_delay: float) -> int:
    """Runs until SIGTERM or until nginx ends.

    On SIGTERM: waits `drain_delay` seconds, in which the endpoints forget this pod, lets nginx finish its requests, and
    creates the file `drained`, for which the engine waits.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        keys = known_keys(key_file)
    except InvalidKeyError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is for people, the trace is not
        write_message("InvalidAPIKey", str(error))
        return EXIT_BAD_INPUT
    drained.unlink(missing_ok=True)  # left by a proxy that ran in this pod before
    scratch.mkdir(parents=True, exist_ok=True)
    config = scratch / "nginx.conf"
    _write(config, render(socket, scratch, keys))
    nginx = subprocess.Popen(["nginx", "-c", str(config), "-p", str(scratch), "-e", "/dev/stderr"])
    log.info(
        "nginx listens; %s", f"{len(keys)} API key(s)" if keys else "open to whoever reaches it: no API key is set"
    )
    follow(nginx, stopping, key_file, lambda found: _write(config, render(socket, scratch, found)))
    if nginx.poll() is None:
        log.info("stopping: new connections end in %.0f s, running requests may finish", drain_delay)
        threading.Event().wait(drain_delay)
        nginx.send_signal(signal.SIGQUIT)
    code = nginx.wait()
    drained.touch()
    return 0 if stopping.is_set() else code or 1


def _write(config: Path, text: str) -> None:
    config.touch(mode=0o600)
    config.write_text(text)


def known_keys(key_file: Path) -> list[str]:
    """A mounted directory means that a key is wanted: then a missing one is an error, not an open door."""
    return read_keys(key_file) if key_file.parent.is_dir() else []


def follow(nginx: Nginx, stopping: threading.Event, key_file: Path, rewrite: Rewrite) -> None:
    """Returns when nginx has ended or `stopping` is set; on a changed key file nginx reads its configuration again."""
    keys = known_keys(key_file)
    last_look = time.monotonic()
    while nginx.poll() is None and not stopping.wait(POLL_SECONDS):
        if time.monotonic() - last_look < KEY_POLL_SECONDS:
            continue
        last_look = time.monotonic()
        try:
            found = known_keys(key_file)
        except InvalidKeyError as error:
            log.warning("%s The old keys stay valid.", error)
            continue
        if found != keys:
            keys = found
            rewrite(keys)
            nginx.send_signal(signal.SIGHUP)
            log.info("the API keys changed")
