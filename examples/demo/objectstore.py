"""A small S3 server in the cluster, over TLS with a private CA, like an on-premises store.

Port 9000 reads and writes; port 9001 serves the same buckets read-only.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from demo.certificates import Identity, make_authority, make_server_identity
from demo.kubectl import apply, kubectl, port_forward
from tuneyard_store.credentials import load_credentials
from tuneyard_store.schemes import open_store
from tuneyard_store.store import Store

Json = dict[str, Any]

PORT, READ_ONLY_PORT = 9000, 9001
BUCKETS = ("models", "data", "artifacts")


class ObjectStore(NamedTuple):
    """The namespace of the store, its certificate authority and its keys."""

    namespace: str
    authority: Identity
    access_key: str
    secret_key: str

    def endpoint(self, port: int = PORT) -> str:
        return f"https://s3.{self.namespace}.svc:{port}"

    def credential_files(self, endpoint: str) -> dict[str, str]:
        """The files of the Secret that a FineTuneJob names in spec.output.secretRef."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": endpoint,
            "ca.crt": self.authority.certificate_pem,
        }

    def secret(self, name: str, namespace: str, **changes: str | None) -> Json:
        """The Secret. `changes` replaces keys, and removes those whose value is None; `ca_crt` means ca.crt."""
        files: dict[str, str | None] = dict(self.credential_files(self.endpoint()))
        files |= {"ca.crt" if key == "ca_crt" else key: value for key, value in changes.items()}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {key: value for key, value in files.items() if value is not None},
        }

    @contextmanager
    def reached_from_here(self) -> Iterator[Store]:
        """Yields the store through a forwarded port, for uploads from this machine."""
        with port_forward("svc/s3", PORT, self.namespace) as port, TemporaryDirectory() as folder:
            for name, value in self.credential_files(f"https://localhost:{port}").items():
                (Path(folder) / name).write_text(value)
            yield open_store(load_credentials(Path(folder)))


def install(namespace: str, image: str) -> ObjectStore:
    """Starts the server in `namespace`, which must exist, and waits until it is ready."""
    store = ObjectStore(namespace, make_authority("tuneyard demo CA"), "demo-access-key", secrets.token_urlsafe(24))
    names = ["s3", f"s3.{namespace}", f"s3.{namespace}.svc", f"s3.{namespace}.svc.cluster.local", "localhost"]
    apply(*manifests(store, make_server_identity(store.authority, names), image))
    kubectl("rollout", "status", "deployment/s3", "-n", namespace, "--timeout=120s", timeout=130)
    return store


def manifests(store: ObjectStore, server: Identity, image: str) -> list[Json]:
    metadata = {"name": "s3", "namespace": store.namespace, "labels": {"app": "s3"}}
    private = {
        "ROOT_ACCESS_KEY": store.access_key,
        "ROOT_SECRET_KEY": store.secret_key,
        "tls.crt": server.certificate_pem,
        "tls.key": server.key_pem,
    }
    ports = [{"name": "s3", "port": PORT}, {"name": "read-only", "port": READ_ONLY_PORT}]
    service = {"selector": {"app": "s3"}, "ports": ports}
    deployment = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "s3"}},
        "template": {"metadata": {"labels": {"app": "s3"}}, "spec": pod_spec(image)},
    }
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": private},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
    ]


def pod_spec(image: str) -> Json:
    mounts = [{"name": "data", "mountPath": "/data"}]
    make_buckets = {
        "name": "buckets",
        "image": image,
        "command": ["mkdir", "-p", "/data/sidecar", *(f"/data/buckets/{bucket}" for bucket in BUCKETS)],
        "securityContext": RESTRICTED,
        "volumeMounts": mounts,
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [make_buckets],
        "containers": [server(image, PORT), server(image, READ_ONLY_PORT, "--readonly")],
        "volumes": [
            # The data is deleted with the pod, which is enough for a demo.
            {"name": "data", "emptyDir": {}},
            {"name": "tls", "secret": {"secretName": "s3"}},
        ],
    }


RESTRICTED: Json = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def server(image: str, port: int, *options: str) -> Json:
    tls = ["--cert", "/tls/tls.crt", "--key", "/tls/tls.key"]
    backend = ["posix", "--sidecar", "/data/sidecar", "/data/buckets"]
    key = {"valueFrom": {"secretKeyRef": {"name": "s3", "key": "ROOT_ACCESS_KEY"}}}
    secret = {"valueFrom": {"secretKeyRef": {"name": "s3", "key": "ROOT_SECRET_KEY"}}}
    return {
        "name": f"s3-{port}",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--port", f":{port}", "--health", "/health", "--quiet", *tls, *options, *backend],
        "env": [{"name": "ROOT_ACCESS_KEY", **key}, {"name": "ROOT_SECRET_KEY", **secret}],
        "ports": [{"containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": port, "scheme": "HTTPS"}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": RESTRICTED,
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "tls", "mountPath": "/tls", "readOnly": True},
        ],
    }
