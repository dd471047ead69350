"""The worker program of the axolotl backend.

Axolotl loads its data in processes that import this module again: Axolotl itself is imported by the worker alone.
"""

from tuneyard_trainer.backends.axolotl.backend import AxolotlRequest
from tuneyard_trainer.runtime.worker_main import worker_main

if __name__ == "__main__":
    from tuneyard_trainer.backends.axolotl.training import fine_tune

    worker_main(AxolotlRequest, fine_tune)
