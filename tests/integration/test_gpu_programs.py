"""What `make gpu` runs works without a GPU, too, with models that say nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_programs_run(tmp_path: Path) -> None:
    names = ["lora-1B-padded", "ladder-8GiB", "merge-8B", "qlora-70B-streamed"]
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-W", "ignore", "-m", "gpu.measure", "--tiny", "--output", str(output), "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())["results"]
    assert list(results) == names
    for found in (results["lora-1B-padded"], results["qlora-70B-streamed"], *results["ladder-8GiB"]["rungs"]):
        assert found["error"] is None
        assert found["tokens_per_second"] > 0
    assert results["merge-8B"]["error"] is None
