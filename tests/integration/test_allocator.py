"""The image's allocator is there, and a worker that is started with it uses it."""

import os
import subprocess
import sys

from tuneyard_trainer.runtime.worker import allocator

MAPS = "print(open('/proc/self/maps').read())"


def test_a_worker_uses_the_images_allocator() -> None:
    found = {
        with_it: "libtcmalloc" in subprocess.run(
            [sys.executable, "-c", MAPS], env=os.environ | variables, check=True, capture_output=True, text=True
        ).stdout
        for with_it, variables in ((True, allocator(os.environ)), (False, {}))
    }  # fmt: skip
    assert found == {True: True, False: False}
