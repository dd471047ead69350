"""What a training backend is.

The name, the training methods and the image of a backend are its line in tuneyard_api.registry.BACKENDS; everything
else is the BACKEND of its module, backends/<name>/backend.py. Only its worker imports torch.
"""

from collections.abc import Callable
from typing import NamedTuple

from tuneyard_api.contracts.requests import TrainOutcome, TrainRequest
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.runtime.worker import Program


class Backend(NamedTuple):
    """A library that trains an adapter, or with method full a model."""

    worker: Program[TrainOutcome]
    """The worker program, and the environment variable that names its interpreter.

    It trains by `native_config`'s request. It emits TrainingProgress, and CheckpointWritten for each checkpoint that it
    has written below request.checkpoints. Once request.stop_file exists it writes a checkpoint and stops; from
    request.resume it restores step, data order, optimizer and random state. It writes the adapter into request.output;
    with method full the model, in bfloat16 and with the base model's configuration.
    """
    check: Callable[[FineTuneJobSpec], None]
    """Raises BadInput for a spec that the backend cannot train; prepare calls it, before a GPU is asked for."""
    native_config: Callable[[TrainRequest], TrainRequest]
    """The request in the backend's own words: a subclass of TrainRequest with the settings of its library.

    What it writes into request.native is published beside the adapter.
    """
    memory_savers: tuple[str, ...] = ()
    """What its worker can do to need less memory, of ladder.SAVERS: what request.memory_savers may name."""
