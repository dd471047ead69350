"""Training backends: each is a worker module; a new one is one file and one line here."""

import logging
from typing import Final

from tuneyard_api.contracts.requests import TrainOutcome
from tuneyard_trainer.runtime.worker import Program

# It asks for CPU kernels from a hub when it is imported, and works as well without them.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

BACKENDS: Final[dict[str, Program[TrainOutcome]]] = {
    "peft": Program("tuneyard_trainer.backends.peft.worker", TrainOutcome),
}
