"""kubectl as the demo and the end-to-end tests use it: what a person would type."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Json = dict[str, Any]


class KubectlError(Exception):
    """kubectl refused; the message is what it printed."""


def kubectl(*args: str, stdin: str | None = None, timeout: float = 120) -> str:
    """Runs kubectl and returns what it printed.

    Raises KubectlError with kubectl's own words when it exits non-zero.
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


def condition(thing: Json, kind: str) -> Json:
    """The condition of that type, or an empty one."""
    found: list[Json] = [each for each in thing.get("status", {}).get("conditions", []) if each["type"] == kind]
    return found[0] if found else {"type": kind, "status": "Unknown", "reason": "", "message": ""}


def is_condition_true(thing: Json, kind: str) -> bool:
    return bool(condition(thing, kind)["status"] == "True")


def wait_until(check: Callable[[], bool], what: str, seconds: float, every: float = 1.0) -> None:
    """Raises TimeoutError, naming `what`, when `check` has not come true in time.

    A call that kubectl could not make (an API server that is busy or away) is made again until then.
    """
    deadline = time.monotonic() + seconds
    while True:
        trouble = ""
        try:
            if check():
                return
        except KubectlError as error:
            trouble = f"; {error}"
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}{trouble}")
        time.sleep(every)


@contextmanager
def port_forward(target: str, port: int, namespace: str) -> Iterator[int]:
    """Forwards a free local port, which is yielded, to `target` (svc/x, pod/x) until the block ends."""
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
