"""Argo CD's programs, built from its Go module into the cache; the first build takes minutes."""

import hashlib
from pathlib import Path
from typing import Final

from tuneyard_cluster.settings import from_environment
from tuneyard_cluster.tools import GO_FLAGS, go_run

MODULE: Final = "github.com/argoproj/argo-cd/v3"
SOURCES: Final = Path(__file__).parent / "programs"
PACKAGES: Final = {"argocd": f"{MODULE}/cmd", "argocd-evaluator": "./evaluator", "argocd-redis": "./redis"}


def program(name: str) -> Path:
    """The path of a program, whose name has the digest of its sources."""
    settings = from_environment()
    files = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    binary = settings.bin / f"{name}-{digest}"
    if not binary.exists():
        build = ("build", *GO_FLAGS, "-ldflags", "-s -w", "-o", binary, PACKAGES[name])
        go_run(*build, settings=settings, cwd=SOURCES)
    return binary


def manifests() -> Path:
    """The directory with the manifests of that version of Argo CD."""
    listed = go_run("list", "-m", "-f", "{{.Dir}}", MODULE, settings=from_environment(), cwd=SOURCES)
    return Path(listed.strip()) / "manifests"
