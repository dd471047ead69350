"""A run of the axolotl backend: Axolotl loads rows and model and builds its trainer by config.yaml.

What the stage promises is added as a callback: progress, validation with the best step, checkpoints by the clock, and a
stop in order. Axolotl's own validation would repeat ours, and is left out of the run.
"""

import os
from typing import Any, Final

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"  # read on import

import torch
import transformers
from axolotl.cli.config import load_cfg
from axolotl.common.datasets import load_datasets
from axolotl.train import setup_model_and_trainer
from transformers.utils import is_flash_attn_2_available

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TrainOutcome
from tuneyard_trainer.backends.axolotl.backend import AxolotlRequest
from tuneyard_trainer.backends.peft.batches import padded
from tuneyard_trainer.backends.peft.batching import Batching
from tuneyard_trainer.backends.peft.callback import StageCallback
from tuneyard_trainer.backends.peft.objective import Likelihood
from tuneyard_trainer.backends.peft.validation import Validation
from tuneyard_trainer.backends.run import begin, finish, held_out, train
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.runtime.errors import BadInput

OURS: Final = {"test_datasets": None, "eval_steps": None, "eval_sample_packing": None, "dataset_num_proc": 0}
"""In place of the file's: our validation, and no processes for rows that need no more work."""


def fine_tune(request: AxolotlRequest) -> TrainOutcome | None:
    """Trains an adapter. The first process of each pod returns an outcome; the first process of all writes it."""
    begin(request)
    _check(request)
    os.chdir(request.config.parent)
    cfg = load_cfg(
        request.config.name,
        base_model=str(request.model),
        output_dir=str(request.checkpoints),
        dataset_prepared_path=str(request.checkpoints.parent / "axolotl"),
        **OURS,
    )
    trainer, model, *_ = setup_model_and_trainer(cfg, load_datasets(cfg=cfg))
    validation = _add_callback(request, trainer, model)
    if request.resume:
        validation.load(request.resume)
    diverged = train(trainer, request.resume)
    if not trainer.is_local_process_zero():
        return None
    return finish(request, trainer, validation, diverged)


def _check(request: AxolotlRequest) -> None:
    """Raises BadInput for kernels that are not here."""
    if request.training.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise BadInput(
            reasons.INVALID_SPEC,
            "training.attention: flash_attention_2 needs a GPU and the package flash-attn in the axolotl image",
            "Write auto or sdpa, or add flash-attn to the image.",
        )


def _add_callback(request: AxolotlRequest, trainer: Any, model: torch.nn.Module) -> Validation:
    # Axolotl's version of transformers takes logits_to_keep as positions, not as a mask.
    objective = Likelihood(Batching(padded, with_some_logits=False))
    validation = Validation(model, held_out(request), trainer.args.per_device_train_batch_size, objective)
    lengths = read_rows(request.rows).lengths
    batch = request.training.effective_batch_size
    callback = StageCallback([round(sum(lengths) / len(lengths))] * batch * request.steps, request, validation)
    callback.autocast = trainer.compute_loss_context_manager
    trainer.add_callback(callback)
    trainer.remove_callback(transformers.PrinterCallback)
    return validation
