"""Functions that run kubectl for the demo and the end-to-end tests."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Json = dict[str, Any]


class KubectlError(Exception):
    """kubectl failed; the message has the command and the output."""


def kubectl(*args: str, stdin: str | None = None, timeout: float = 120) -> str:
    """Runs kubectl and returns its standard output.

    Raises KubectlError with the output of kubectl if it exits non-zero.
    """
    done = subprocess.run(["kubectl", *args], input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise KubectlError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def apply(*documents: Json) -> str:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    return kubectl("apply", "-f", "-", stdin=json.dumps(listed))


def get(kind: str, name: str, namespace: str) -> Json:
    found: Json = json.loads(kubectl("get", kind, name, "-n", namespace, "-o", "json"))
    return found


def items(kind: str, namespace: str, selector: str = "") -> list[Json]:
    labels = ["-l", selector] if selector else []
    listed: list[Json] = json.loads(kubectl("get", kind, "-n", namespace, *labels, "-o", "json"))["items"]
    return listed


def condition(obj: Json, kind: str) -> Json:
    """The condition of type `kind`; if there is none, one with status Unknown."""
    found: list[Json] = [item for item in obj.get("status", {}).get("conditions", []) if item["type"] == kind]
    return found[0] if found else {"type": kind, "status": "Unknown", "reason": "", "message": ""}


def is_condition_true(obj: Json, kind: str) -> bool:
    return bool(condition(obj, kind)["status"] == "True")


def wait_until(check: Callable[[], bool], what: str, seconds: float, every: float = 1.0) -> None:
    """Calls `check` until it returns True; raises TimeoutError with `what` after `seconds`.

    A KubectlError is retried until then, because the API server may be busy or restarting.
    """
    deadline = time.monotonic() + seconds
    while True:
        error_text = ""
        try:
            if check():
                return
        except KubectlError as error:
            error_text = f"; {error}"
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}{error_text}")
        time.sleep(every)


@contextmanager
def port_forward(target: str, port: int, namespace: str) -> Iterator[int]:
    """Forwards a free local port to `target` (svc/x, pod/x) until the block ends, and yields the local port."""
    command = ["kubectl", "port-forward", "-n", namespace, target, f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if "Forwarding from" not in line:
                raise KubectlError(f"{' '.join(command)}: {line.strip()}")
            yield int(line.split(" -> ")[0].rsplit(":", 1)[1])
        finally:
            process.terminate()
            process.communicate()
