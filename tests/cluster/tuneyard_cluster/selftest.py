"""Do Services work? A cluster can look healthy, with DNS answering, while kube-proxy has written no rule at all."""

from __future__ import annotations

import json

from tuneyard_cluster import tools
from tuneyard_cluster.settings import SERVICE_RANGE, Settings
from tuneyard_cluster.shell import Failed, run, succeeds, wait_until

# CoreDNS is in every cluster, and its health endpoint answers with a body of which nothing else would think.
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "selftest", "namespace": "kube-system"},
    "spec": {"selector": {"k8s-app": "kube-dns"}, "ports": [{"name": "health", "port": 80, "targetPort": 8080}]},
}
BODY = "OK"
NOBODY = "10.96.255.254"  # in SERVICE_RANGE, and nobody's
SYNC_FAILED = ("Failed to execute iptables-restore", "Failed to ensure chain", "Sync failed", "Failed to load kernel")


def reject_stray_service_traffic(settings: Settings) -> None:
    """What is still addressed to a Service when it is filtered has none: it must not leave by the default route."""
    for chain in ("FORWARD", "OUTPUT"):
        rule = (chain, "-d", SERVICE_RANGE, "-j", "REJECT", "--reject-with", "icmp-port-unreachable")
        if not succeeds("docker", "exec", settings.node, "iptables", "-w", "-C", *rule):
            run("docker", "exec", settings.node, "iptables", "-w", "-A", *rule)


def check(settings: Settings) -> None:
    """Raises Failed unless a Service answers the node and a pod, and an address of no Service answers nobody."""
    kubectl = (tools.ensure("kubectl", settings), "--kubeconfig", settings.kubeconfig, "-n", "kube-system")
    applied = run(*kubectl, "apply", "-o", "json", "-f", "-", stdin=json.dumps(SERVICE))
    address = json.loads(applied)["spec"]["clusterIP"]
    for where, through in (("the node", []), ("a pod", _in_a_pod(settings))):
        if not wait_until(lambda through=through: _fetch(settings, through, address) == BODY, 90):  # type: ignore[misc]
            answer = _fetch(settings, through, address)
            raise Failed(f"Services do not work from {where}: {address} answered {answer!r}, not {BODY!r}")
        if (answer := _fetch(settings, through, NOBODY)) is not None:
            raise Failed(f"{NOBODY} is no Service, yet from {where} something answered: {answer[:100]!r}")
    if complaints := sync_errors(run(*kubectl, "logs", "daemonset/kube-proxy", "--tail=500")):
        raise Failed("kube-proxy cannot write its rules:\n  " + "\n  ".join(complaints[:5]))


def sync_errors(log: str) -> list[str]:
    """Lines of kube-proxy's log that say its rules are not in the kernel."""
    return [line for line in log.splitlines() if any(sign in line for sign in SYNC_FAILED)]


def _in_a_pod(settings: Settings) -> list[str]:
    """Words that run the node's own program in the network of CoreDNS' pod: no image with curl is needed."""

    def pid() -> str:
        return run("docker", "exec", settings.node, "sh", "-c", "pgrep -xo coredns || true")

    if not wait_until(lambda: bool(pid()), 90):
        raise Failed("CoreDNS does not start")
    return ["nsenter", "--net", "--target", pid()]


def _fetch(settings: Settings, through: list[str], address: str) -> str | None:
    """Body of http://address/health; None if nothing answers within 3 s."""
    try:
        curl = ("curl", "-s", "-m", "3", "--noproxy", "*", f"http://{address}/health")
        return run("docker", "exec", settings.node, *through, *curl)
    except Failed:
        return None
