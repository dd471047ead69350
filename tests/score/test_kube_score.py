"""kube-score on the chart's output. `make score` builds it: a minute."""

import subprocess
from pathlib import Path
from typing import Final

import pytest

from support.chart import IMAGES, helm
from support.docs import ROOT
from tuneyard_cluster.settings import from_environment
from tuneyard_cluster.tools import GO_FLAGS, go_run

VERSION: Final = "v1.20.0"
PACKAGE: Final = f"github.com/zegl/kube-score/cmd/kube-score@{VERSION}"
# What it finds, and why it stays.
EXCEPTIONS: Final = {
    "CPU limit is not set": "a limit throttles; the request is what the scheduler needs",
    "ImagePullPolicy is not set to Always": "tags are content hashes, and values have digests",
    "does not have a host podAntiAffinity set": "topologySpreadConstraints spread the replicas",
    "The pod does not have a matching NetworkPolicy": "networkPolicies.enabled, as not every network enforces them",
    "The NetworkPolicys selector doesn't match any pods": "the operator creates those pods",
}
OPTIONS: Final = {
    "default": [],
    "all": ["networkPolicies.enabled=true", "networkPolicies.namespaces={team-a}", "metrics.service=true"],
    "namespaced": ["watchNamespaces={team-a}"],
}


@pytest.fixture(scope="module")
def kube_score() -> Path:
    settings = from_environment()
    binary = settings.bin / f"kube-score-{VERSION}"
    if not binary.exists():
        build = settings.bin / "kube-score-build"
        go_run("install", *GO_FLAGS, "-ldflags", "-s -w", PACKAGE, settings=settings, env={"GOBIN": str(build)})
        (build / "kube-score").rename(binary)
        build.rmdir()
    return binary


@pytest.mark.parametrize("values", OPTIONS.values(), ids=OPTIONS)
def test_only_known_exceptions(values: list[str], kube_score: Path) -> None:
    options = [part for value in values for part in ("--set", value)]
    manifests = helm("template", "tuneyard", str(ROOT / "charts" / "tuneyard"), *IMAGES, *options)
    command = [str(kube_score), "score", "--output-format", "ci", "-"]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith(("[CRITICAL]", "[WARNING]"))]
    assert "[OK]" in done.stdout, done.stderr
    assert [line for line in found if not any(known in line for known in EXCEPTIONS)] == []
