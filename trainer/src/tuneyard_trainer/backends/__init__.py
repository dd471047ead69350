"""Training backends: each is a worker module; a new one is one file and one line here."""

from typing import Final

from tuneyard_trainer.worker import Program

BACKENDS: Final[dict[str, Program]] = {
    "peft": Program("tuneyard_trainer.backends.peft"),
}
