"""The node's root file system from Debian packages and the files of the kind module.

Source: sigs.k8s.io/kind, images/base/Dockerfile; the comments say where Debian's way differs from it.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tuneyard_cluster import host, tools
from tuneyard_cluster.settings import DEBIAN, KIND, POD_RANGE, Settings
from tuneyard_cluster.shell import run, step

PACKAGES = """
    systemd systemd-sysv conntrack iptables nftables iproute2 ethtool util-linux mount kmod libseccomp2 pigz e2fsprogs
    bash ca-certificates curl jq procps socat containerd runc containernetworking-plugins
""".split()  # noqa: SIM905

# Units that make no sense in a container (kind's Dockerfile removes the same)
NOT_IN_A_CONTAINER = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/basic.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "etc/systemd/system/*.wants/*",
)
DEAD_WEIGHT = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")

POD_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

# No provisioner: `up` keeps a stock of volumes.
STORAGE_CLASS = """apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
"""


def bootstrap(root: Path, settings: Settings) -> None:
    """A Debian at `root` that can be a kind node but for the Kubernetes programs. As root, a minute."""
    host.check_root("build the node image, because no container registry can be reached")
    if not shutil.which("debootstrap"):
        host.install("debootstrap", "debian-archive-keyring")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    packages = ",".join(PACKAGES)
    with step("build the node's file system"):
        run("debootstrap", "--variant=minbase", f"--include={packages}", DEBIAN, root, settings.debian_mirror)
        _add_kind_files(root, settings)
        _trim(root)
        _configure(root)


def _add_kind_files(root: Path, settings: Settings) -> None:
    files = tools.module(f"sigs.k8s.io/kind@{KIND}", settings) / "images/base/files"
    for source in sorted(path for path in files.rglob("*") if path.is_file()):
        target = root / source.relative_to(files)
        if source.name in ("clean-install", "README.txt") or "fuse-overlayfs" in source.name:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if target.parent.name == "bin" else 0o644)
    for program in ("containerd", "ctr", "containerd-shim-runc-v2"):  # where kind's units look
        _link(root / "usr/local/bin" / program, f"/usr/bin/{program}")
    shutil.copytree(root / "usr/lib/cni", root / "opt/cni/bin", symlinks=True)


def _trim(root: Path) -> None:
    for pattern in NOT_IN_A_CONTAINER:
        for unit in root.glob(pattern):
            unit.unlink()
    for directory in DEAD_WEIGHT:
        shutil.rmtree(root / directory, ignore_errors=True)
    (root / "lib/systemd/system/containerd.service").unlink(missing_ok=True)  # kind's own unit is to be found


def _configure(root: Path) -> None:
    _link(root / "sbin/init", "/usr/lib/systemd/systemd")
    with (root / "etc/systemd/journald.conf").open("a") as journald:
        journald.write("ReadKMsg=no\n")
    _allow_missing_sys_resource(root)
    run("chroot", root, "systemctl", "enable", "kubelet.service", "containerd.service", "undo-mount-hacks.service")
    run("chroot", root, "systemctl", "mask", "systemd-binfmt.service")
    (root / "etc/containerd/cri-base.json").write_text(base_spec(run("chroot", root, "ctr", "oci", "spec")))
    for directory in ("etc/cni/net.d", "kind/manifests", "etc/kubernetes/manifests"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "etc/cni/net.d/10-pods.conflist").write_text(json.dumps(POD_NETWORK, indent=1))
    for name in ("default-storage.yaml", "default-cni.yaml"):  # kind applies both; the second must be there
        (root / "kind/manifests" / name).write_text(STORAGE_CLASS)


def _allow_missing_sys_resource(root: Path) -> None:
    """Without CAP_SYS_RESOURCE nothing may ask the kernel to be killed later than its parent."""
    _replace(root / "etc/systemd/system/containerd.service", r"OOMScoreAdjust=.*", "OOMScoreAdjust=0")
    _replace(root / "etc/containerd/config.toml", r"restrict_oom_score_adj = false", "restrict_oom_score_adj = true")


def base_spec(spec: str) -> str:
    """containerd's default OCI spec with kind's hook and without limits of its own."""
    document = json.loads(spec)
    hooks = document.setdefault("hooks", {}).setdefault("createContainer", [])
    hooks.append({"path": "/kind/bin/mount-product-files.sh"})
    document["process"].pop("rlimits", None)
    return json.dumps(document)


def _replace(file: Path, pattern: str, by: str) -> None:
    text, times = re.subn(pattern, by, file.read_text())
    if times != 1:
        raise ValueError(f"{file}: {pattern!r} found {times} times, expected once")
    file.write_text(text)


def _link(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
