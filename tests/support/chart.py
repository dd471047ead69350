"""The Helm chart, rendered."""

import subprocess
from collections.abc import Sequence
from typing import Any, Final

import yaml

from support.docs import ROOT

Json = dict[str, Any]

CHART: Final = ROOT / "charts" / "tuneyard"
# What an installation must set.
IMAGES: Final = ("--set", "images.operator=operator:1,images.trainer=trainer:1,images.server=server:1")


def helm(*args: str) -> str:
    """Raises AssertionError with helm's words."""
    done = subprocess.run(["helm", *args], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(release: str, namespace: str, *options: str, images: Sequence[str] = IMAGES) -> list[Json]:
    """The objects of a release."""
    text = helm("template", release, str(CHART), "--namespace", namespace, *images, *options)
    return [document for document in yaml.safe_load_all(text) if document]
