"""The stages: one module each with a PROGRAM, thin; none of them imports torch."""

import importlib

from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.stage_runner import Outcome, StageProgram, run_program


def run_stage(context: StageContext) -> Outcome:
    """Runs the stage that the context names, to its end. Only that stage's module is imported."""
    program: StageProgram = importlib.import_module(f"{__name__}.{context.stage}").PROGRAM
    return run_program(context, program)
