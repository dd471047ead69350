"""Kueue for tests: the objects that install it, and a queue with room for little.

They are the release's own manifests, without what the tests do not need: APIServices, metrics, other kinds of jobs. Its
webhooks see the Jobs of one namespace and its own objects, so nobody else waits for it.
"""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tuneyard_cluster.settings import KUEUE, from_environment
from tuneyard_cluster.tools import module

Json = dict[str, Any]

SYSTEM: Final = "kueue-system"
DEPLOYMENT: Final = "kueue-controller-manager"
SERVICE: Final = "kueue-webhook-service"
API: Final = "kueue.x-k8s.io/v1beta2"
QUEUE: Final = "gpus"  # the LocalQueue
URGENT: Final = "urgent"  # a PriorityClass: above those who have none

# What a namespaced controller needs; the visibility API and metrics are left out.
KINDS: Final = {
    *("Namespace", "CustomResourceDefinition", "ServiceAccount", "Secret", "ConfigMap", "Service", "Deployment"),
    *("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    *("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"),
}


def configuration(namespace: str, **parts: Any) -> Json:
    """Kueue's, with `parts` in place of its own; Jobs of other namespaces are not its business."""
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": SYSTEM,
        "health": {"healthProbeBindAddress": ":8081"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": 9443},
        "leaderElection": {"leaderElect": False},
        "featureGates": {"VisibilityOnDemand": False},
        "managedJobsNamespaceSelector": _only(namespace),
        "integrations": {"frameworks": ["batch/job"]},
    } | parts


def manifests(kubectl: Sequence[str], namespace: str, image: str, config: Json) -> list[Json]:
    """Everything that installs it, the Namespace first.

    Args:
        kubectl: the beginning of its command.
        namespace: the one whose Jobs it manages.
    """
    source = module(f"sigs.k8s.io/kueue@{KUEUE}", from_environment()) / "config" / "default"
    command = [*kubectl, "kustomize", str(source)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    everything: list[Json] = list(yaml.load_all(rendered, yaml.CSafeLoader))
    change: dict[str, Callable[[Json], None]] = {
        "Secret": _fill_certificates,
        "ConfigMap": lambda thing: thing.update(data={"controller_manager_config.yaml": json.dumps(config)}),
        "Deployment": lambda thing: _make_small(thing, image),
        "MutatingWebhookConfiguration": lambda thing: _narrow(thing, namespace),
        "ValidatingWebhookConfiguration": lambda thing: _narrow(thing, namespace),
    }
    kept = list(_needed(everything))
    for each in kept:
        if each["kind"] in change:
            change[each["kind"]](each)
    return kept


def _needed(everything: list[Json]) -> Iterator[Json]:
    used = {each["roleRef"]["name"] for each in everything if "roleRef" in each}
    for each in everything:
        name, namespace = each["metadata"]["name"], each["metadata"].get("namespace", SYSTEM)
        idle = (each["kind"] == "ClusterRole" and name not in used) or (each["kind"] == "Service" and name != SERVICE)
        if each["kind"] in KINDS and namespace == SYSTEM and not idle:
            yield each


def _narrow(webhooks: Json, namespace: str) -> None:
    """To Kueue's own objects and to the Jobs of the namespace."""
    groups = {"batch", "kueue.x-k8s.io"}
    webhooks["webhooks"] = [each for each in webhooks["webhooks"] if set(each["rules"][0]["apiGroups"]) <= groups]
    for each in webhooks["webhooks"]:
        if each["rules"][0]["apiGroups"] == ["batch"]:
            each["namespaceSelector"] = _only(namespace)


def _only(namespace: str) -> Json:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def _make_small(deployment: Json, image: str) -> None:
    """It shares two cores with what is tested, and is asked every second whether it is ready."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    container["resources"]["requests"] = {"cpu": "50m", "memory": "128Mi"}
    container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1}
    deployment["spec"]["template"]["spec"]["securityContext"] |= {"runAsUser": 65532, "runAsGroup": 65532}


def _fill_certificates(secret: Json) -> None:
    """Kueue would make them itself, but then a kubelet brings them to its pod only a minute later.

    One certificate is both the authority and the server's. It lives longer than the 90 days before whose end Kueue
    makes a new one, and its key is of the kind that Kueue can read.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kueue-ca")])
    hosts = [x509.DNSName("kueue-ca"), x509.DNSName(f"{SERVICE}.{SYSTEM}.svc"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    files = {"ca.crt": pem, "ca.key": private, "tls.crt": pem, "tls.key": private}
    secret["data"] = {name: base64.b64encode(content).decode() for name, content in files.items()}


def cluster_queue(namespace: str, room: Json) -> list[Json]:
    """A ClusterQueue for that namespace, and of its name, with quota for `room` (resource -> quantity); a priority."""
    quota = [{"name": name, "nominalQuota": quantity} for name, quantity in room.items()]
    group = {"coveredResources": list(room), "flavors": [{"name": namespace, "resources": quota}]}
    spec = {
        "namespaceSelector": _only(namespace),
        "resourceGroups": [group],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    return [
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": namespace}},
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": spec},
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": URGENT},
            "value": 1000,
            "preemptionPolicy": "Never",  # by Kueue, not by the scheduler
        },
    ]


def local_queue(namespace: str) -> Json:
    metadata = {"name": QUEUE, "namespace": namespace}
    return {"apiVersion": API, "kind": "LocalQueue", "metadata": metadata, "spec": {"clusterQueue": namespace}}
