"""The tools kind, helm, kubectl, versitygw and kueue: of the host, or built from Go modules into the cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from tuneyard_cluster import host
from tuneyard_cluster.settings import (
    ETCD,
    GO,
    GO_SHA256,
    HELM,
    KIND,
    KUBERNETES,
    KUEUE,
    NODE_SOURCE,
    VERSITYGW,
    Settings,
)
from tuneyard_cluster.shell import Failed, Refused, run, step

GO_FLAGS = ("-trimpath", "-buildvcs=false")

# `go install` of a pinned version checks it against Go's checksum database, as go.sum would.
PACKAGES = {
    "kind": f"sigs.k8s.io/kind@{KIND}",
    "helm": f"helm.sh/helm/v3/cmd/helm@{HELM}",
    "versitygw": f"github.com/versity/versitygw/cmd/versitygw@{VERSITYGW}",
    "kueue": f"sigs.k8s.io/kueue/cmd/kueue@{KUEUE}",
}
PINNED = ("versitygw", "kueue")  # images contain them
NAMES = (*PACKAGES, "kubectl", "node")


def find(name: str, settings: Settings) -> Path | None:
    """The path of a tool on the host, or else in the cache; None if there is none."""
    cached = settings.bin / name
    own = shutil.which(name)
    return Path(own) if own else cached if cached.exists() else None


def ensure(name: str, settings: Settings) -> Path:
    """The path of a tool, built if it is missing or pinned; `node` is the binary with all programs of a node."""
    if name == "node":
        return node_binary(settings)
    if name in PINNED:
        return _installed(name, settings)
    return find(name, settings) or (_kubectl(settings) if name == "kubectl" else _installed(name, settings))


def _installed(name: str, settings: Settings) -> Path:
    package = PACKAGES[name]
    version = package.rpartition("@")[2]

    def build(target: Path) -> None:
        binary = target.parent / "gobin" / name
        go_run("install", *GO_FLAGS, "-ldflags", "-s -w", package, settings=settings, env={"GOBIN": str(binary.parent)})
        binary.rename(target)
        binary.parent.rmdir()

    path = _built(settings.bin / f"{name}-{version}", f"build {name} {version}", build)
    _link(settings.bin / name, path)
    return path


def _kubectl(settings: Settings) -> Path:
    path = settings.bin / "kubectl"
    _link(path, node_binary(settings))
    return path


def node_binary(settings: Settings) -> Path:
    """The binary with all programs of a node (see node/main.go), cached by the digest of its sources.

    The single replacements in node/go.mod pin modules that CoreDNS would upgrade to those of the Kubernetes release.
    """
    version = KUBERNETES.split(".")
    about = {
        "k8s.io/component-base/version.gitVersion": KUBERNETES,
        "k8s.io/component-base/version.gitMajor": version[0].lstrip("v"),
        "k8s.io/component-base/version.gitMinor": version[1],
        "k8s.io/component-base/version.gitTreeState": "clean",
        "k8s.io/component-base/version.gitCommit": "unknown",
        "k8s.io/component-base/version.buildDate": "2026-01-01T00:00:00Z",
        "k8s.io/client-go/pkg/version.gitVersion": KUBERNETES,
    }
    flags = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in about.items())])
    path = settings.bin / f"node-{source_digest(flags, ETCD)}"
    return _built(
        path,
        f"build Kubernetes {KUBERNETES} (6 minutes on 2 cores)",
        lambda to: go_run("build", *GO_FLAGS, "-ldflags", flags, "-o", to, ".", settings=settings, cwd=NODE_SOURCE),
    )


def pause_binary(settings: Settings) -> Path:
    return _built(
        settings.bin / f"pause-{source_digest()}",
        "build pause",
        lambda to: go_run(
            "build", *GO_FLAGS, "-ldflags", "-s -w", "-o", to, "./pause", settings=settings, cwd=NODE_SOURCE
        ),
    )


def source_digest(*more: str) -> str:
    """A digest of 12 hex digits of the Go sources, their pins and everything else that determines the binaries."""
    digest = hashlib.sha256()
    for file in sorted(path for path in NODE_SOURCE.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(NODE_SOURCE)}\0".encode() + file.read_bytes())
    digest.update("\0".join((*GO_FLAGS, *more)).encode())
    return digest.hexdigest()[:12]


def _built(path: Path, what: str, build: Callable[[Path], object]) -> Path:
    """The file at `path`, which is built if it is missing; an interrupted build leaves no file of that name."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with step(what):
            build(partial)
        partial.rename(path)
    return path


def _link(link: Path, target: Path) -> None:
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)


def go_run(
    *arguments: str | Path, settings: Settings, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Runs go at low priority, for static binaries, without flags of the user's environment; returns the output."""
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "auto", "GOWORK": "off"}
    return run("nice", "-n", "5", go(settings), *arguments, cwd=cwd or settings.cache, env=fixed | (env or {}))


def module(name: str, settings: Settings) -> Path:
    """The read-only directory with the sources of a module ("path@version")."""
    return Path(json.loads(go_run("mod", "download", "-json", name, settings=settings))["Dir"])


def go(settings: Settings) -> Path:
    """The host's Go if it is 1.21 or later and so can fetch the toolchain of a module, else a pinned one."""
    if own := shutil.which("go"):
        found = re.search(r"go1\.(\d+)", run(own, "version"))
        if found and int(found[1]) >= 21:
            return Path(own)
    path = settings.cache / f"go-{GO}" / "bin" / "go"
    if not path.exists():
        _fetch_go(path.parent.parent)
    return path


def _fetch_go(directory: Path) -> None:
    """Downloads the toolchain from the Go module proxy, checks its digest and unpacks it."""
    architecture = host.architecture()
    if architecture not in GO_SHA256:
        raise Refused(f"Go 1.21 or later is needed on {architecture}: install it from https://go.dev/dl and try again.")
    proxy = os.environ.get("GOPROXY", "").replace("|", ",").split(",")[0]
    if not proxy.startswith("http"):
        proxy = "https://proxy.golang.org"
    url = f"{proxy.rstrip('/')}/golang.org/toolchain/@v/v0.0.1-go{GO}.linux-{architecture}.zip"
    directory.parent.mkdir(parents=True, exist_ok=True)
    archive = directory.with_suffix(".zip")
    with step(f"fetch Go {GO}"):
        try:
            urllib.request.urlretrieve(url, archive)  # noqa: S310 - http(s), see above
        except OSError as error:
            raise Failed(f"{url}: {error}. Install Go 1.21 or later and try again.") from error
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != GO_SHA256[architecture]:
            raise Failed(f"{url}: SHA-256 {found}, expected {GO_SHA256[architecture]}")
        _unpack(archive, directory)
        archive.unlink()


def _unpack(archive: Path, directory: Path) -> None:
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(partial)
    (top,) = (partial / "golang.org").iterdir()
    for program in (*top.glob("bin/*"), *top.glob("pkg/tool/*/*")):  # the zip file of a module has no file modes
        program.chmod(0o755)
    top.rename(directory)
    shutil.rmtree(partial)
