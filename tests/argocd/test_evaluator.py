"""The health scripts over recorded states, by the evaluator of Argo CD itself, which takes three minutes to build."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tuneyard_cluster.settings import from_environment
from tuneyard_cluster.tools import GO_FLAGS, go_run

SOURCE = Path(__file__).parent / "evaluator"
FOLDER = Path(__file__).parents[2] / "docs" / "argocd"


@pytest.fixture(scope="module")
def evaluator() -> Path:
    """The program, built into the cache under the digest of its sources."""
    settings = from_environment()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()))).hexdigest()[:12]
    binary = settings.bin / f"argocd-evaluator-{digest}"
    if not binary.exists():
        go_run("build", *GO_FLAGS, "-ldflags", "-s -w", "-o", binary, ".", settings=settings, cwd=SOURCE)
    return binary


@pytest.mark.parametrize("listed", sorted(FOLDER.glob("*/*/health_test.yaml")), ids=lambda path: path.parent.name)
def test_health(evaluator: Path, listed: Path) -> None:
    cases = yaml.safe_load(listed.read_text())["tests"]
    objects = [yaml.safe_load((listed.parent / case["inputPath"]).read_text()) for case in cases]
    done = subprocess.run([evaluator, FOLDER], input=json.dumps(objects), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(zip([case["inputPath"] for case in cases], json.loads(done.stdout), strict=True))
    assert found == {case["inputPath"]: case["healthStatus"] for case in cases}
