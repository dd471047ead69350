"""The image's allocator is there, and a worker that is started with it uses it."""

import os
import subprocess
import sys

from tuneyard_trainer.runtime.worker import allocator

MAPS = "print(open('/proc/self/maps').read())"


def libraries(variables: dict[str, str]) -> str:
    """What a Python that is started with these variables has mapped."""
    command, environment = [sys.executable, "-c", MAPS], os.environ | variables
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_worker_uses_the_images_allocator() -> None:
    assert "libtcmalloc" in libraries(allocator(os.environ))
    assert "libtcmalloc" not in libraries({})
