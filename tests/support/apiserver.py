"""A real API server for a test: etcd and kube-apiserver on loopback, and controllers where they are asked for.

There is no node: pods stay Pending until somebody writes their status. It is up in three seconds.
"""

import base64
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

Json = dict[str, Any]

CACHE: Final = Path(os.environ.get("TUNEYARD_CACHE") or Path.home() / ".cache" / "tuneyard")
CRDS: Final = Path(__file__).parents[2] / "crds"
TOKEN: Final = "administrator"
START_SECONDS: Final = 60.0


@dataclass
class ApiServer:
    """A running API server; who holds its kubeconfig may do everything."""

    folder: Path  # data, certificates, logs: all that it writes
    url: str
    ca: Path  # PEM
    kubeconfig: Path
    audit_log: Path  # JSON lines; there is one where an audit policy was given
    etcd_url: str
    commands: dict[str, list[str]]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def request(self, method: str, path: str, body: Json | None = None, content_type: str = "application/json") -> Json:
        """Raises urllib.error.HTTPError where the API server refuses."""
        parsed: Json = json.loads(self._answer(method, path, body, content_type))
        return parsed

    def _answer(self, method: str, path: str, body: Json | None, content_type: str) -> bytes:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)  # noqa: S310 - ours
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:  # noqa: S310
            found: bytes = answer.read()
            return found

    def install_crds(self, folder: Path = CRDS) -> None:
        """Installs the CRDs of a folder, this tree's by default; returns when their objects can be created."""
        files = sorted(folder.glob("*.yaml"))
        assert files, f"{folder} has no CRDs"
        create = [*self.kubectl, "create", *(f"--filename={file}" for file in files)]
        subprocess.run(create, check=True, capture_output=True, timeout=60)
        for file in files:
            self.wait_established(file.stem)

    def install(self, *crds: Json) -> None:
        """Installs CRDs; returns when their objects can be created."""
        for crd in crds:
            self.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
            self.wait_established(crd["metadata"]["name"])

    def wait_established(self, crd: str) -> None:
        """Not `kubectl wait`, which fails while a new CRD has no conditions at all."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = self.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}")
            conditions = found.get("status", {}).get("conditions") or []
            if any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
                return
            time.sleep(0.1)
        raise TimeoutError(f"{crd} is not established after {START_SECONDS:.0f} s")

    @property
    def kubectl(self) -> list[str]:
        """The beginning of a kubectl command."""
        return [str(self.folder / "bin" / "kubectl"), f"--kubeconfig={self.kubeconfig}"]

    def compact(self) -> None:
        """Makes etcd forget all but the present."""
        ask = {"key": base64.b64encode(b"/").decode()}
        revision = _etcd(self.etcd_url, "range", ask)["header"]["revision"]
        _etcd(self.etcd_url, "compaction", {"revision": revision, "physical": True})

    def start(self, name: str = "kube-apiserver") -> None:
        if name == "kube-controller-manager":
            self._wait_for("/healthz")  # it ends where that takes longer than ten seconds
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(self.commands[name], stdout=log, stderr=log)
        if name == "kube-apiserver":
            # An object shows that RBAC and the default namespace are there too.
            self._wait_for("/api/v1/namespaces/default")

    def stop(self, name: str = "kube-apiserver") -> None:
        """Its clients lose their connections; what it stored stays."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(2)  # it waits long for its clients to go
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Its watch caches start anew, from what etcd still knows."""
        self.stop()
        self.start()

    def _wait_for(self, path: str) -> None:
        """Waits until a GET succeeds."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                self._answer("GET", path, None, "application/json")
            except OSError as error:
                if self.processes["kube-apiserver"].poll() is not None:
                    raise RuntimeError(f"kube-apiserver ended: {self.log_end()}") from error
                time.sleep(0.1)
            else:
                return
        raise TimeoutError(f"no API server within {START_SECONDS:.0f} s: {self.log_end()}")

    def log_end(self, name: str = "kube-apiserver") -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]


@contextmanager
def api_server(folder: Path, *, audit_policy: Json | None = None, controllers: str = "") -> Iterator[ApiServer]:
    """Runs one in an empty folder until the block ends.

    `controllers`: names of kube-controller-manager's, with commas between them; empty: it does not run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    binaries = _binaries(folder / "bin")
    port, etcd_port, peer_port = free_ports(3)
    etcd_url, url = f"http://127.0.0.1:{etcd_port}", f"https://127.0.0.1:{port}"
    _write_secrets(folder, url)
    commands = {
        "etcd": _etcd_command(binaries, folder, etcd_url, f"http://127.0.0.1:{peer_port}"),
        "kube-apiserver": _server_command(binaries, folder, etcd_url, port),
        "kube-controller-manager": _controllers_command(binaries, folder, controllers),
    }
    if audit_policy:
        (folder / "audit.json").write_text(json.dumps(audit_policy))
        commands["kube-apiserver"] += [
            f"--audit-policy-file={folder / 'audit.json'}",
            f"--audit-log-path={folder / 'audit.log'}",
            "--audit-log-mode=blocking",
        ]
    pki = folder / "pki" / "apiserver.crt"
    server = ApiServer(folder, url, pki, folder / "kubeconfig", folder / "audit.log", etcd_url, commands)
    try:
        server.start("etcd")
        server.start()
        if controllers:
            server.start("kube-controller-manager")
        yield server
    finally:
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            server.stop(name)


def free_ports(count: int) -> Sequence[int]:
    sockets = [socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _binaries(folder: Path) -> Path:
    """The cluster's node binary is each of these by the name that it is called by."""
    found = sorted((CACHE / "bin").glob("node-*"))
    assert found, f"no node-* in {CACHE / 'bin'}: run `make cluster` where it builds its node image"
    folder.mkdir()
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"):
        (folder / name).symlink_to(found[-1])
    return folder


def client_config(url: str, token: str, ca: Path | None = None) -> Json:
    """The kubeconfig of a client that shows the token; `ca`: a PEM file, where the API server speaks TLS."""
    cluster = {"server": url} | ({"certificate-authority": str(ca)} if ca else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
    }


def _write_secrets(folder: Path, url: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (folder / "service-accounts.pem").write_bytes(pem)
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    config = client_config(url, TOKEN, folder / "pki" / "apiserver.crt")
    (folder / "kubeconfig").write_text(json.dumps(config))


def _etcd_command(binaries: Path, folder: Path, url: str, peer: str) -> list[str]:
    return [
        *(str(binaries / "etcd"), "--name=test", f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync"),
        *(f"--listen-client-urls={url}", f"--advertise-client-urls={url}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=test={peer}"),
    ]


def _server_command(binaries: Path, folder: Path, etcd_url: str, port: int) -> list[str]:
    keys = folder / "service-accounts.pem"
    return [
        *(str(binaries / "kube-apiserver"), f"--etcd-servers={etcd_url}", f"--cert-dir={folder / 'pki'}"),
        *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}"),
        *(f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC"),
        *(f"--service-account-key-file={keys}", f"--service-account-signing-key-file={keys}"),
        *("--service-account-issuer=https://test", "--service-cluster-ip-range=10.0.0.0/24"),
        *("--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"),
    ]


def _controllers_command(binaries: Path, folder: Path, controllers: str) -> list[str]:
    return [
        *(str(binaries / "kube-controller-manager"), f"--kubeconfig={folder / 'kubeconfig'}"),
        *(f"--controllers={controllers}", "--leader-elect=false", "--secure-port=0"),
    ]


def _etcd(url: str, call: str, body: Json) -> Json:
    request = urllib.request.Request(f"{url}/v3/kv/{call}", json.dumps(body).encode(), method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        parsed: Json = json.loads(answer.read())
        return parsed
