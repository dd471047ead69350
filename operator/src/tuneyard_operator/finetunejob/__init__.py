"""FineTuneJob: one Job per stage, one after the other."""

from tuneyard_operator.finetunejob.controller import CONTROLLER

__all__ = ["CONTROLLER"]
