"""Operator processes on this machine, which are killed without warning and have a clock of their own."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

# Of Debian's package libfaketime, which `make chaos-tools` installs.
FAKETIME: Final = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
RESTART_SECONDS: Final = 0.5


class OperatorProcess:
    """`tuneyard-operator`; everything that it prints goes to `folder`/NAME.log, over all its lives."""

    def __init__(self, name: str, folder: Path, kubeconfig: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._clock = folder / f"{name}.clock"
        self._log = folder / f"{name}.log"
        self._environment = {**os.environ, **environment, **self._faketime(), "KUBECONFIG": str(kubeconfig)}
        self._environment.pop("KUBERNETES_SERVICE_HOST", None)
        self._process: subprocess.Popen[bytes] | None = None
        self.gave_up = 0  # how often it has ended by itself

    async def run(self) -> None:
        """Starts it, and starts it again whenever it has ended, as a kubelet does; until this is cancelled."""
        command = [sys.executable, "-m", "tuneyard_operator"]
        try:
            while True:
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
                while self._process.poll() is None:
                    await asyncio.sleep(0.1)
                if self._process.returncode != -signal.SIGKILL:
                    self.gave_up += 1
                await asyncio.sleep(RESTART_SECONDS)
        finally:
            self.kill()

    def kill(self) -> bool:
        """As the kernel kills: no signal handler runs. False where it is down already."""
        if self._process is None or self._process.poll() is not None:
            return False
        self._process.kill()
        self._process.wait()
        return True

    def jump_clock(self, to: timedelta) -> None:
        """Its wall clock is off by that much from now on; the monotonic one never jumps."""
        self._clock.write_text(f"{to.total_seconds():+.0f}s\n")

    def _faketime(self) -> dict[str, str]:
        """A running process follows the offset in the file."""
        assert FAKETIME, "no libfaketime: run `make chaos-tools`"
        self.jump_clock(timedelta())
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
