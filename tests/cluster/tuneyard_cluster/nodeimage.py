"""The image of a kind node: the public one, or one built here from Go modules and Debian packages."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tuneyard_cluster import host, rootfs, tools
from tuneyard_cluster.oci import Image, Layer, config, tar_layer, write_archive
from tuneyard_cluster.settings import (
    COREDNS,
    DEBIAN,
    ETCD,
    KIND,
    KUBERNETES,
    PAUSE,
    POD_RANGE,
    PUBLIC_NODE_IMAGE,
    Settings,
)
from tuneyard_cluster.shell import Failed, at_once, run, say, step, succeeds, wait_until

REPOSITORY = "tuneyard/node"
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
PROGRAMS = (*CONTROL_PLANE, "etcd", "coredns", "kubectl")
IPTABLES = ("iptables", "ip6tables")
ENTRYPOINT = 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]'


@dataclass(frozen=True)
class NodeImage:
    name: str
    built: bool  # here: it has a static pod network, and no volume provisioner


def ensure(settings: Settings) -> NodeImage:
    """An image that docker has, built if need be: the one asked for, one that is there already, the public one."""
    here = f"{REPOSITORY}:{_digest()}"
    if settings.node_image:
        if not _in_docker(settings.node_image):
            run("docker", "pull", settings.node_image)
        return NodeImage(settings.node_image, built=settings.node_image.startswith(REPOSITORY))
    if _in_docker(here):
        return NodeImage(here, built=True)
    # The public node's containerd asks for CAP_SYS_RESOURCE.
    if not host.lacking_capabilities() and (_in_docker(PUBLIC_NODE_IMAGE) or _pulled()):
        return NodeImage(PUBLIC_NODE_IMAGE, built=False)
    _build(here, settings)
    return NodeImage(here, built=True)


def _in_docker(image: str) -> bool:
    return succeeds("docker", "image", "inspect", image)


def _pulled() -> bool:
    if not _docker_hub_answers():
        say("    Docker Hub cannot be reached: the node image is built here")
        return False
    with step(f"pull {PUBLIC_NODE_IMAGE}"):
        return succeeds("docker", "pull", PUBLIC_NODE_IMAGE, timeout=900)


def _docker_hub_answers() -> bool:
    try:
        urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=5)
    except urllib.error.HTTPError as answer:
        return answer.code == 401  # what a registry says to a stranger; a proxy's rejection is another code
    except OSError:
        return False
    return True


def _digest() -> str:
    """12 hex digits that name everything the built image is made of."""
    pins = (KUBERNETES, ETCD, COREDNS, PAUSE, KIND, DEBIAN, POD_RANGE)
    digest = hashlib.sha256(tools.source_digest(*pins).encode())
    for source in ("nodeimage", "oci", "rootfs"):
        digest.update((Path(__file__).parent / f"{source}.py").read_bytes())
    return digest.hexdigest()[:12]


def _build(name: str, settings: Settings) -> None:
    work = settings.cache / "node-build"
    root = work / "root"
    at_once(
        lambda: rootfs.bootstrap(root, settings),
        lambda: (tools.node_binary(settings), tools.pause_binary(settings)),
    )
    with step(f"assemble {name}"):
        _add_programs(root, tools.node_binary(settings))
        with (work / "images.tar").open("wb") as archive:
            write_archive(archive, _control_plane_images(root, work, settings))
        _commit(name, root, work / "images.tar")
        shutil.rmtree(work)
    forget(keep=name)


def forget(keep: str | None = None) -> None:
    """Removes the images built here, but for `keep` and those of clusters that run."""
    for image in run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY).splitlines():
        if image != keep:
            succeeds("docker", "rmi", image)


def _add_programs(root: Path, binary: Path) -> None:
    kubelet = root / "usr/bin/kubelet"
    shutil.copyfile(binary, kubelet)
    kubelet.chmod(0o755)
    for program in ("kubeadm", "kubectl"):
        (root / "usr/bin" / program).symlink_to("kubelet")
    (root / "kind/version").write_text(KUBERNETES)


def _control_plane_images(root: Path, work: Path, settings: Settings) -> list[Image]:
    """One layer with every program and kube-proxy's tools, three configs for it; and pause."""
    everything = _layer(work / "kube.tar", _kube_members(root, tools.node_binary(settings)))
    pause = _layer(work / "pause.tar", [(tools.pause_binary(settings), "pause")])
    registry = "registry.k8s.io"
    kube = tuple(f"{registry}/{program}:{KUBERNETES}" for program in CONTROL_PLANE)
    path = {"Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    machine = host.architecture()
    return [
        Image((*kube, f"{registry}/etcd:{ETCD}"), config(machine, [everything], **path), (everything,)),
        Image(
            (f"{registry}/coredns/coredns:{COREDNS}",),
            config(machine, [everything], Entrypoint=["/usr/local/bin/coredns"], **path),
            (everything,),
        ),
        Image((f"{registry}/pause:{PAUSE}",), config(machine, [pause], Entrypoint=["/pause"]), (pause,)),
    ]


def _layer(tar: Path, members: Iterable[tuple[Path | str, str]]) -> Layer:
    """A layer of files (a path to copy) and links (a string to point at), all root's."""
    with tarfile.open(tar, "w") as archive:
        for source, target in members:
            if isinstance(source, str):
                link = tarfile.TarInfo(target)
                link.type, link.linkname, link.mode = tarfile.SYMTYPE, source, 0o777
                archive.addfile(link)
            else:
                data = source.read_bytes()
                file = tarfile.TarInfo(target)
                file.size, file.mode = len(data), 0o755
                archive.addfile(file, io.BytesIO(data))
        directory = tarfile.TarInfo("tmp")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(directory)
    return tar_layer(tar)


def _kube_members(root: Path, binary: Path) -> list[tuple[Path | str, str]]:
    members: list[tuple[Path | str, str]] = [(binary, "usr/local/bin/kube")]
    members += [("kube", f"usr/local/bin/{program}") for program in PROGRAMS]
    tool_files = ["usr/sbin/xtables-nft-multi", "usr/sbin/nft", "usr/sbin/conntrack"]
    plugins = sorted(str(path.relative_to(root)) for path in root.glob("usr/lib/*/xtables/*.so"))
    members += [((root / file).resolve(), file) for file in (*tool_files, *plugins)]
    members += [(_inside(root, library), library) for library in _libraries(root, (*tool_files, *plugins))]
    for tool in (f"{tool}{verb}" for tool in IPTABLES for verb in ("", "-save", "-restore")):
        members.append(("xtables-nft-multi", f"usr/sbin/{tool}"))
    return members


def _libraries(root: Path, programs: Iterable[str]) -> list[str]:
    """Every library that the programs load, and the plug-ins too: without libm kube-proxy cannot write a rule."""
    listing = run("chroot", root, "ldd", *(f"/{program}" for program in programs))
    words = (word for line in listing.splitlines() if line.startswith("\t") for word in line.split())
    return sorted({word.lstrip("/") for word in words if word.startswith("/")})


def _inside(root: Path, path: str) -> Path:
    """The file that `path` means within `root`, whose links may be absolute."""
    return root / run("chroot", root, "readlink", "-f", f"/{path}").lstrip("/")


def _commit(name: str, root: Path, images: Path) -> None:
    """Runs the file system once, to let its own containerd take in the control plane's images."""
    base, container = f"{name}-base", f"tuneyard-node-{name.rpartition(':')[2]}"
    run("sh", "-c", f"tar -C '{root}' -c . | docker import -c 'ENV container=docker' - {base}")
    succeeds("docker", "rm", "-f", container)
    try:
        run("docker", "run", "-d", "--name", container, "--privileged", "--entrypoint", "sleep", base, "infinity")
        run("docker", "exec", "-d", container, "containerd")
        ctr = ("docker", "exec", "-i", container, "ctr", "-n", "k8s.io")
        if not wait_until(lambda: succeeds(*ctr, "version"), 30):
            raise Failed("containerd does not start in the node image")
        pinned = ("--label=io.cri-containerd.pinned=pinned", "--all-platforms", "--no-unpack")
        run(*ctr, "images", "import", *pinned, "-", stdin=images.read_bytes())
        run("docker", "exec", container, "sh", "-c", "pkill containerd; while pgrep -x containerd; do sleep 0.1; done")
        run("docker", "commit", "--change", ENTRYPOINT, container, name)
    finally:
        succeeds("docker", "rm", "-f", "-v", container)
        succeeds("docker", "rmi", base)
