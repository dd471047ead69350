"""Versions, paths and names; Settings has everything that environment variables can change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# 1.34 is the last minor version whose kubelet runs on cgroup v1 without a special setting.
KUBERNETES = "v1.34.4"
PUBLIC_NODE_IMAGE = "docker.io/kindest/node:v1.34.0"
COREDNS = "v1.12.4"
ETCD = "3.6.5-0"  # the tag that kubeadm asks for; the code is the version in node/go.mod
PAUSE = "3.10"

KIND = "v0.33.0"
HELM = "v3.22.0"
VERSITYGW = "v1.8.0"
KUEUE = "v0.15.0"

GO = "1.26.8"
# The digest of golang.org/toolchain from the module proxy, for hosts without Go.
GO_SHA256 = {"amd64": "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7"}

DEBIAN = "bookworm"
SERVICE_RANGE = "10.96.0.0/16"
POD_RANGE = "10.244.0.0/24"
FAKE_GPUS = 8
VOLUMES = 16
OPERATOR = "system:serviceaccount:tuneyard-system:tuneyard"  # as `make install` installs it
AUDIT_LOG = Path("/var/log/kubernetes/audit/audit.log")  # on the node

NODE_SOURCE = Path(__file__).resolve().parent.parent / "node"


@dataclass(frozen=True)
class Settings:
    name: str  # of the kind cluster
    cache: Path  # the directory of everything that outlives a cluster
    node_image: str | None  # the only image to use, if it is set
    debian_mirror: str

    @property
    def bin(self) -> Path:
        return self.cache / "bin"

    @property
    def kubeconfig(self) -> Path:
        return self.cache / ("kubeconfig" if self.name == "tuneyard" else f"kubeconfig-{self.name}")

    @property
    def node(self) -> str:
        return f"{self.name}-control-plane"


def from_environment(env: Mapping[str, str] = os.environ) -> Settings:
    home = Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME", "/root")) / ".cache")
    return Settings(
        name=env.get("TUNEYARD_CLUSTER") or "tuneyard",
        cache=Path(env.get("TUNEYARD_CACHE") or home / "tuneyard").absolute(),
        node_image=env.get("TUNEYARD_NODE_IMAGE") or None,
        debian_mirror=env.get("TUNEYARD_DEBIAN_MIRROR") or "http://deb.debian.org/debian",
    )
