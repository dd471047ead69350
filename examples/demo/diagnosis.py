"""Prints the objects, events and logs of a namespace, for diagnosis after a failure."""

import json
import sys

from demo.kubectl import KubectlError, items, kubectl

LOG_LINES = 60


def print_namespace(namespace: str) -> None:
    """Prints the state of `namespace` to standard error. It never raises, because it runs after another error."""
    section(f"namespace {namespace}", ["get", "ftj,ms,jobs,pods,deployments", "-n", namespace, "-o", "wide"])
    section("status", ["get", "ftj,ms", "-n", namespace, "-o", "yaml"])
    section("events", ["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"])
    try:
        pods = items("pods", namespace)
    except (KubectlError, json.JSONDecodeError):
        return
    for pod in pods:
        name = pod["metadata"]["name"]
        section(f"log of {name}", ["logs", name, "-n", namespace, "--all-containers", f"--tail={LOG_LINES}"])
    operators = ["-n", "tuneyard-system", "-l", "app.kubernetes.io/name=tuneyard", "--prefix"]
    section("log of the operators", ["logs", *operators, f"--tail={LOG_LINES}"])


def section(title: str, command: list[str]) -> None:
    try:
        text = kubectl(*command)
    except (KubectlError, OSError) as error:
        text = str(error)
    print(f"\n--- {title}\n{text}", file=sys.stderr)
