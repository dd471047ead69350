"""training.microBatchSize: auto, as a number."""

from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.training import AUTO, FULL
from tuneyard_trainer.backends.schedule import micro_batch_size
from tuneyard_trainer.model.fit import largest_fitting
from tuneyard_trainer.model.shape import ModelShape


def with_micro_batch_size(spec: FineTuneJobSpec, shape: ModelShape) -> FineTuneJobSpec:
    """The spec with a number in place of auto: the rows that fit by the estimate of the memory, else the default.

    A full tuning is not estimated. The effective batch stays the same.
    """
    training = spec.training
    if training.micro_batch_size != AUTO:
        return spec
    fitting = None if training.method == FULL else largest_fitting(spec, shape)
    micro = fitting or micro_batch_size(training, spec.resources.devices)
    return spec.model_copy(update={"training": training.model_copy(update={"micro_batch_size": micro})})
