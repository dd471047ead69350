"""`tuneyard-server proxy`: runs nginx in front of the engine, reloads changed API keys, and drains before it stops."""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tuneyard_api import names, reasons
from tuneyard_api.contracts.termination import termination_message, write_termination_message
from tuneyard_server.proxy.config import Front, render
from tuneyard_server.proxy.keys import InvalidKeyError, mounted_keys

log = logging.getLogger(__name__)

Nginx = subprocess.Popen[bytes]
WriteConfig = Callable[[list[str]], None]

KEY_POLL_SECONDS = 5.0
POLL_SECONDS = 0.2


def serve(front: Front, socket: Path, scratch: Path, key_file: Path, drained: Path, drain_delay: float) -> int:
    """Runs until SIGTERM or until nginx exits; returns an exit code.

    After SIGTERM it waits `drain_delay` seconds, in which the endpoints forget this pod, lets nginx finish its
    requests, and creates the file `drained`, for which the engine's container waits.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        keys = mounted_keys(key_file)
    except InvalidKeyError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is for people, the trace is not
        write_termination_message(termination_message(reasons.INVALID_API_KEY, str(error)))
        return names.EXIT_BAD_INPUT
    drained.unlink(missing_ok=True)  # left by a proxy container that ran in this pod before
    scratch.mkdir(parents=True, exist_ok=True)
    config = scratch / "nginx.conf"

    def write_config(keys: list[str]) -> None:
        config.touch(mode=0o600)
        config.write_text(render(front, socket, scratch, keys))

    write_config(keys)
    nginx = subprocess.Popen(["nginx", "-c", str(config), "-p", str(scratch), "-e", "/dev/stderr"])
    log.info("nginx listens; %s", f"{len(keys)} API key(s)" if keys else "no API key is set: the endpoint is open")
    follow_keys(nginx, stopping, key_file, keys, write_config)
    if nginx.poll() is None:
        log.info("stopping: new connections end in %.0f s, running requests may finish", drain_delay)
        threading.Event().wait(drain_delay)
        nginx.send_signal(signal.SIGQUIT)
    code = nginx.wait()
    drained.touch()
    return 0 if stopping.is_set() else code or 1


def follow_keys(
    nginx: Nginx, stopping: threading.Event, key_file: Path, keys: list[str], write_config: WriteConfig
) -> None:
    """Reloads nginx whenever the key file changes; returns when nginx has exited or `stopping` is set."""
    checked_at = time.monotonic()
    while nginx.poll() is None and not stopping.wait(POLL_SECONDS):
        if time.monotonic() - checked_at < KEY_POLL_SECONDS:
            continue
        checked_at = time.monotonic()
        try:
            current = mounted_keys(key_file)
        except InvalidKeyError as error:
            log.warning("%s The old keys stay valid.", error)
            continue
        if current != keys:
            keys = current
            write_config(keys)
            nginx.send_signal(signal.SIGHUP)
            log.info("the API keys changed")
