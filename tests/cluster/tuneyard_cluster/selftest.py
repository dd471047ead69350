"""Tests that Services work. A cluster can look healthy, DNS included, while kube-proxy has written no rules."""

from __future__ import annotations

import json

from tuneyard_cluster import tools
from tuneyard_cluster.settings import SERVICE_RANGE, Settings
from tuneyard_cluster.shell import Failed, run, wait_until

# CoreDNS runs in every cluster, and the body of its health endpoint tells it from other servers.
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "selftest", "namespace": "kube-system"},
    "spec": {"selector": {"k8s-app": "kube-dns"}, "ports": [{"name": "health", "port": 80, "targetPort": 8080}]},
}
BODY = "OK"
UNUSED_ADDRESS = "10.96.255.254"  # in SERVICE_RANGE, of no Service
SYNC_FAILED = ("Failed to execute iptables-restore", "Failed to ensure chain", "Sync failed", "Failed to load kernel")


# This runs in the node. It enters the network of a pod, so that no image with curl is needed.
PROBE = """
get() { "$@" curl -s -m 3 --noproxy '*' "http://$address/health"; echo " $where $address"; }
for address in $0 $1; do
  where=node get
  where=pod get nsenter --net --target "$(pgrep -xo coredns || echo 0)"
done
"""
REJECT = f"""
for chain in FORWARD OUTPUT; do
  set -- $chain -d {SERVICE_RANGE} -j REJECT --reject-with icmp-port-unreachable
  iptables -w -C "$@" 2>/dev/null || iptables -w -A "$@"
done
"""


def reject_stray_service_traffic(settings: Settings) -> None:
    """Rejects packets to the Service range that kube-proxy did not redirect, so that they do not leave the host."""
    run("docker", "exec", settings.node, "sh", "-c", REJECT)


def check(settings: Settings) -> None:
    """Raises Failed unless a Service answers the node and a pod, and an unused address does not answer them."""
    kubectl = (tools.ensure("kubectl", settings), "--kubeconfig", settings.kubeconfig, "-n", "kube-system")
    applied = run(*kubectl, "apply", "-o", "json", "-f", "-", stdin=json.dumps(SERVICE))
    address = json.loads(applied)["spec"]["clusterIP"]

    def responses() -> list[str]:
        return run("docker", "exec", settings.node, "bash", "-c", PROBE, address, UNUSED_ADDRESS).splitlines()

    expected = [f"{BODY} node {address}", f"{BODY} pod {address}", f" node {UNUSED_ADDRESS}", f" pod {UNUSED_ADDRESS}"]
    if not wait_until(lambda: responses() == expected, 90):
        raise Failed(f"Services do not work. Responses (body, client, address): {responses()}, expected: {expected}")
    if errors := sync_errors(run(*kubectl, "logs", "daemonset/kube-proxy", "--tail=500")):
        raise Failed("kube-proxy cannot write its rules:\n  " + "\n  ".join(errors[:5]))


def sync_errors(log: str) -> list[str]:
    """The lines of kube-proxy's log that report rules which could not be written to the kernel."""
    return [line for line in log.splitlines() if any(sign in line for sign in SYNC_FAILED)]
