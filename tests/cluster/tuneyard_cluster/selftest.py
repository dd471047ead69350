"""Do Services work? A cluster can look healthy, with DNS answering, while kube-proxy has written no rule at all."""

from __future__ import annotations

import json

from tuneyard_cluster import tools
from tuneyard_cluster.settings import SERVICE_RANGE, Settings
from tuneyard_cluster.shell import Failed, run, wait_until

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


# Runs in the node; a pod's network is enough of a pod, so that no image with curl is needed.
ASK = """
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
    """What is still addressed to a Service when it is filtered has none: it must not leave by the default route."""
    run("docker", "exec", settings.node, "sh", "-c", REJECT)


def check(settings: Settings) -> None:
    """Raises Failed unless a Service answers the node and a pod, and an address of no Service answers nobody."""
    kubectl = (tools.ensure("kubectl", settings), "--kubeconfig", settings.kubeconfig, "-n", "kube-system")
    applied = run(*kubectl, "apply", "-o", "json", "-f", "-", stdin=json.dumps(SERVICE))
    address = json.loads(applied)["spec"]["clusterIP"]

    def answers() -> list[str]:
        return run("docker", "exec", settings.node, "bash", "-c", ASK, address, NOBODY).splitlines()

    expected = [f"{BODY} node {address}", f"{BODY} pod {address}", f" node {NOBODY}", f" pod {NOBODY}"]
    if not wait_until(lambda: answers() == expected, 90):
        raise Failed(f"Services do not work. Answers, places and addresses: {answers()}, expected: {expected}")
    if complaints := sync_errors(run(*kubectl, "logs", "daemonset/kube-proxy", "--tail=500")):
        raise Failed("kube-proxy cannot write its rules:\n  " + "\n  ".join(complaints[:5]))


def sync_errors(log: str) -> list[str]:
    """Lines of kube-proxy's log that say its rules are not in the kernel."""
    return [line for line in log.splitlines() if any(sign in line for sign in SYNC_FAILED)]
