"""Calls kubectl, which knows the cluster and the namespace, and whose plugins authenticate."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Final, NamedTuple

from tuneyard_api.names import GROUP, LABEL_FINETUNEJOB, LABEL_MODELSERVER
from tuneyard_cli.objects import Json

FINE_TUNE_JOBS: Final = f"finetunejobs.{GROUP}"
MODEL_SERVERS: Final = f"modelservers.{GROUP}"

NOT_INSTALLED: Final = "tuneyard is not installed in this cluster: it has no FineTuneJobs. Is this the right --context?"
# What kubectl prints while the API server cannot be reached.
AWAY: Final = (
    "Unable to connect",
    "refused",
    "timeout",
    "EOF",
    "http2:",
    "reset by peer",
    "(ServiceUnavailable)",
    "(InternalError)",
    "(TooManyRequests)",
)
LOG_OF_KUBECTL: Final = re.compile(r"[IWEF]\d{4} ")


class KubectlError(Exception):
    """kubectl failed; the message is one line."""


class NotFound(KubectlError):
    """There is no such object."""


class Unavailable(KubectlError):
    """The API server does not answer; a retry may help."""


class Kubectl(NamedTuple):
    """Each method raises KubectlError."""

    flags: tuple[str, ...] = ()  # --context, --namespace and so on, of every call

    def find(self, kind: str, name: str) -> Json | None:
        """None where there is no such object."""
        text = self._run("get", kind, name, "--ignore-not-found", "-o", "json")
        return dict(json.loads(text)) if text.strip() else None

    def find_all(self, kind: str, *options: str) -> list[Json]:
        items: list[Json] = json.loads(self._run("get", kind, "-o", "json", *options))["items"]
        return items

    def pods(self, job: str) -> list[Json]:
        """Of a FineTuneJob."""
        return self.find_all("pods", "-l", f"{LABEL_FINETUNEJOB}={job}")

    def server_pods(self, server: str) -> list[Json]:
        """Of a ModelServer."""
        return self.find_all("pods", "-l", f"{LABEL_MODELSERVER}={server}")

    def patch(self, kind: str, name: str, patch: Json) -> None:
        """A JSON merge patch."""
        self._run("patch", kind, name, "--type=merge", "-p", json.dumps(patch))

    def follow_server(self, server: str, container: str) -> Iterator[str]:
        """The lines of a container of all replicas, as they come, each after `[pod/NAME/CONTAINER] `."""
        options = ("-c", container, "-f", "--prefix", "--tail=-1", "--max-log-requests=100")
        return self.log("-l", f"{LABEL_MODELSERVER}={server}", *options)

    def log(self, *what: str) -> Iterator[str]:
        """Its lines, as they come."""
        with self._start("logs", *what) as process:
            try:
                yield from process.stdout or ()
                _, trouble = process.communicate()
            finally:
                process.terminate()
        if process.returncode:
            raise explain(trouble)

    def _run(self, *arguments: str) -> str:
        with self._start(*arguments) as process:
            printed, trouble = process.communicate()
        if process.returncode:
            raise explain(trouble)
        return printed

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        command = ["kubectl", *arguments, *self.flags]
        try:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError as error:
            raise KubectlError("kubectl is not on the PATH") from error


def explain(printed: str) -> KubectlError:
    """What kubectl printed when it failed, as an error of one line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip() and not LOG_OF_KUBECTL.match(line)]
    last = lines[-1] if lines else "kubectl failed and printed nothing"
    if "the server doesn't have a resource type" in last:
        return Unavailable(NOT_INSTALLED)  # an API server that just starts says so too
    reason = re.sub(r"^(error|Error from server( \(\w+\))?): ", "", last)
    if "(Forbidden)" in last:
        return KubectlError(f"You have no permission: {reason}")
    if "(NotFound)" in last:
        return NotFound(reason)
    return Unavailable(reason) if any(word in last for word in AWAY) else KubectlError(reason)
