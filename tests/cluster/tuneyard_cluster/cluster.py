"""The kind cluster: kept while it is healthy and has the wanted configuration, recreated otherwise."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tuneyard_cluster import selftest, tools
from tuneyard_cluster.nodeimage import NodeImage
from tuneyard_cluster.settings import (
    AUDIT_LOG,
    COREDNS,
    FAKE_GPUS,
    OPERATOR,
    POD_RANGE,
    SERVICE_RANGE,
    VOLUMES,
    Settings,
)
from tuneyard_cluster.shell import Failed, run, say, step, succeeds, wait_until

MARK = "tuneyard.dev/cluster"  # node label: the digest of the cluster's configuration; it is set last


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],  # a request at this stage has no response yet
    "rules": [{"level": "Metadata", "users": [OPERATOR]}, {"level": "None"}],
}
POLICY_ON_NODE = Path("/etc/kubernetes/audit/policy.json")


def kind_config(image: NodeImage, settings: Settings) -> str:
    """The configuration for `kind create cluster`, as JSON, which is also YAML."""
    networking: dict[str, Any] = {"serviceSubnet": SERVICE_RANGE, "disableDefaultCNI": image.built}
    patches: list[dict[str, Any]] = [_audited()]
    if image.built:
        networking["podSubnet"] = POD_RANGE
        patches.append({"kind": "ClusterConfiguration", "dns": {"imageTag": COREDNS}})
    policy = {"hostPath": str(audit_policy(settings)), "containerPath": str(POLICY_ON_NODE), "readOnly": True}
    return json.dumps(
        {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "networking": networking,
            "nodes": [{"role": "control-plane", "extraMounts": [policy]}],
            "kubeadmConfigPatches": [json.dumps(patch) for patch in patches],
        }
    )


def audit_policy(settings: Settings) -> Path:
    """The path of the audit policy on this host, which is mounted into the node."""
    digest = hashlib.sha256(json.dumps(AUDIT_POLICY).encode()).hexdigest()[:12]
    return settings.cache / f"audit-policy-{digest}.json"


def _audited() -> dict[str, Any]:
    """The patch with which the API server logs the operator's requests; a test compares them with the RBAC rules."""
    folders = {"audit-policy": POLICY_ON_NODE.parent, "audit-log": AUDIT_LOG.parent}
    return {
        "kind": "ClusterConfiguration",
        "apiServer": {
            "extraArgs": {
                "audit-policy-file": str(POLICY_ON_NODE),
                "audit-log-path": str(AUDIT_LOG),
                "audit-log-maxsize": "100",  # MB; then the next file
                "audit-log-maxbackup": "10",
            },
            "extraVolumes": [
                {"name": name, "hostPath": str(path), "mountPath": str(path), "pathType": "DirectoryOrCreate"}
                for name, path in folders.items()
            ],
        },
    }


def mark_of(image: NodeImage, settings: Settings) -> str:
    """A digest of everything that the cluster is created from."""
    source = f"{image.name}\0{kind_config(image, settings)}\0{VOLUMES}"
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def ensure(image: NodeImage, settings: Settings) -> None:
    mark = mark_of(image, settings)
    audit_policy(settings).write_text(json.dumps(AUDIT_POLICY))
    _start_node(settings)
    state = _mark_on_node(settings)
    if state != mark:
        if _exists(settings):
            say(f"    the cluster {'has another configuration' if state else 'does not answer'}: it is recreated")
        _recreate(image, settings)
    try:
        _configure(image, settings)
    except Failed as error:
        if state != mark:
            raise
        say(f"    the cluster is not healthy: it is recreated\n    {error}")
        _recreate(image, settings)
        _configure(image, settings)
    _kubectl(settings, "label", "--overwrite", "node", settings.node, f"{MARK}={mark}")


def _configure(image: NodeImage, settings: Settings) -> None:
    """Adds what kind does not provide; parts that already exist stay."""
    selftest.reject_stray_service_traffic(settings)
    if image.built:
        _add_volumes(settings)
    _fake_gpus(settings)
    with step("check the Services"):
        selftest.check(settings)


def _start_node(settings: Settings) -> None:
    """Starts an existing node that is stopped or still starting, as after a reboot or when dockerd was killed."""
    if not _exists(settings):
        return
    state = run("docker", "inspect", "-f", "{{.State.Status}}", settings.node)
    if state != "running":
        with step(f"start the {state} node"):
            succeeds("docker", "unpause" if state == "paused" else "start", settings.node)
    if not settings.kubeconfig.exists():
        kind = tools.ensure("kind", settings)
        succeeds(kind, "export", "kubeconfig", "--name", settings.name, "--kubeconfig", settings.kubeconfig)
    wait_until(lambda: _mark_on_node(settings) is not None, 60)


def _exists(settings: Settings) -> bool:
    return succeeds("docker", "container", "inspect", settings.node)


def _mark_on_node(settings: Settings) -> str | None:
    """The mark of a Ready node; None if the node does not answer, "" if the cluster was never completed."""
    if not settings.kubeconfig.exists():
        return None
    try:
        node = json.loads(_kubectl(settings, "get", "node", settings.node, "-o", "json", "--request-timeout=5s"))
    except Failed:
        return None
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
    return str(node["metadata"]["labels"].get(MARK, "")) if ready else None


def _recreate(image: NodeImage, settings: Settings) -> None:
    kind = tools.ensure("kind", settings)
    run(kind, "delete", "cluster", "--name", settings.name, "--kubeconfig", settings.kubeconfig)
    with step(f"create the cluster {settings.name}"):
        create = (kind, "create", "cluster", "--name", settings.name, "--image", image.name, "--config", "-")
        wait = ("--wait", "180s", "--kubeconfig", settings.kubeconfig)
        run(*create, *wait, stdin=kind_config(image, settings), timeout=600)


def _fake_gpus(settings: Settings) -> None:
    """Adds nvidia.com/gpu to the node's capacity, so that pods which request it are scheduled; no GPU exists."""
    patch = [
        {"op": "add", "path": f"/status/{kind}/nvidia.com~1gpu", "value": str(FAKE_GPUS)}
        for kind in ("capacity", "allocatable")
    ]
    _kubectl(settings, "patch", "node", settings.node, "--subresource=status", "--type=json", "-p", json.dumps(patch))


def _add_volumes(settings: Settings) -> None:
    """Keeps VOLUMES empty volumes to bind; a volume whose claim was deleted is emptied and recreated."""
    found = json.loads(_kubectl(settings, "get", "pv", "-o", "json"))["items"]
    kept = {pv["metadata"]["name"] for pv in found if pv["status"]["phase"] in ("Available", "Bound", "Pending")}
    fresh = [name for name in (f"volume-{n:02}" for n in range(VOLUMES)) if name not in kept]
    if not fresh:
        return
    used = {pv["metadata"]["name"] for pv in found} & set(fresh)
    if used:
        _kubectl(settings, "delete", "pv", *sorted(used))
    paths = [f"/var/volumes/{name}" for name in fresh]
    run("docker", "exec", settings.node, "rm", "-rf", *paths)
    run("docker", "exec", settings.node, "mkdir", "-p", "-m", "0777", *paths)  # a hostPath volume ignores fsGroup
    volumes = {"apiVersion": "v1", "kind": "List", "items": [_volume(name) for name in fresh]}
    _kubectl(settings, "apply", "-f", "-", stdin=json.dumps(volumes))


def _volume(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "standard",
            "capacity": {"storage": "50Gi"},  # not enforced
            "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"/var/volumes/{name}", "type": "Directory"},
        },
    }


def _kubectl(settings: Settings, *arguments: str, stdin: str | None = None) -> str:
    kubectl = tools.ensure("kubectl", settings)
    return run(kubectl, "--kubeconfig", settings.kubeconfig, *arguments, stdin=stdin, timeout=60)


def delete(settings: Settings) -> None:
    if not _exists(settings):
        settings.kubeconfig.unlink(missing_ok=True)
        return
    with step(f"delete the cluster {settings.name}"):
        kind = tools.ensure("kind", settings)
        run(kind, "delete", "cluster", "--name", settings.name, "--kubeconfig", settings.kubeconfig)
        settings.kubeconfig.unlink(missing_ok=True)
        succeeds("docker", "network", "rm", "kind")  # fails while another kind cluster uses it
