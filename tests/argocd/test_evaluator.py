"""The health scripts over recorded states, by the evaluator of Argo CD itself."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from argocd import build

FOLDER = Path(__file__).parents[2] / "docs" / "argocd"


@pytest.mark.parametrize("listed", sorted(FOLDER.glob("*/*/health_test.yaml")), ids=lambda path: path.parent.name)
def test_health(listed: Path) -> None:
    cases = yaml.safe_load(listed.read_text())["tests"]
    objects = [yaml.safe_load((listed.parent / case["inputPath"]).read_text()) for case in cases]
    evaluate = [build.program("argocd-evaluator"), FOLDER]
    done = subprocess.run(evaluate, input=json.dumps(objects), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(zip([case["inputPath"] for case in cases], json.loads(done.stdout), strict=True))
    assert found == {case["inputPath"]: case["healthStatus"] for case in cases}
