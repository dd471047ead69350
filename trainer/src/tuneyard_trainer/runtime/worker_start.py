"""Starts a worker program: python -m tuneyard_trainer.runtime.worker_start MODULE ARGUMENTS.

Importing torch, transformers and peft creates millions of objects that stay. Looking through them for garbage again and
again takes a third of that time, so the collector rests until worker_main begins with the work.
"""

import gc
import runpy
import sys


def main() -> None:
    gc.disable()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
