"""The worker of the unsloth backend: Unsloth loads and adapts the model, transformers' Trainer trains it.

It has not run on a GPU yet. Rows are padded: Unsloth's own packing takes text, and the rows are tokens here.
"""

from collections.abc import Sequence
from typing import Any

import unsloth  # it patches what is imported after it
import torch
import transformers
from torch.utils.data import Subset
from transformers import Trainer, TrainingArguments

from tuneyard_api.contracts.requests import TrainOutcome
from tuneyard_trainer.backends.peft.batches import Batch, padded
from tuneyard_trainer.backends.peft.batching import Batching
from tuneyard_trainer.backends.peft.callback import StageCallback
from tuneyard_trainer.backends.peft.objective import Likelihood
from tuneyard_trainer.backends.peft.validation import Validation
from tuneyard_trainer.backends.run import check_gpus, finish, held_out, train
from tuneyard_trainer.backends.schedule import row_order
from tuneyard_trainer.backends.unsloth.backend import UnslothRequest
from tuneyard_trainer.data.columns import IGNORED, LABELS, TokenizedRow
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.runtime.worker_main import worker_main


def fine_tune(request: UnslothRequest) -> TrainOutcome:
    """Trains an adapter on the first GPU."""
    check_gpus(request)
    transformers.set_seed(request.training.seed)
    model = _model(request)
    rows = read_rows(request.rows)
    order = row_order(rows.lengths, request.steps, request.training.effective_batch_size, request.training.seed)
    validation = _validation(request, model)
    callback = StageCallback([rows.lengths[index] for index in order], request, validation)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**request.training_arguments),
        train_dataset=Subset(rows, order),
        data_collator=collate,
        callbacks=[callback],
    )
    callback.autocast = trainer.compute_loss_context_manager
    trainer.remove_callback(transformers.PrinterCallback)
    if request.resume:
        validation.load(request.resume)
    diverged = train(trainer, request.resume)
    return finish(request, trainer, validation, diverged)


def _model(request: UnslothRequest) -> Any:
    loaded = request.loaded
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        model_name=str(request.model),
        max_seq_length=loaded.max_seq_length,
        dtype=getattr(torch, loaded.dtype),
        load_in_4bit=loaded.load_in_4bit,
        load_in_16bit=not loaded.load_in_4bit,
        use_gradient_checkpointing=request.adapter.use_gradient_checkpointing,
        use_exact_model_name=True,  # not a quantized model of its own from the hub
        random_state=loaded.random_state,
        max_lora_rank=request.adapter.r,
        local_files_only=True,
    )
    return unsloth.FastLanguageModel.get_peft_model(model, **request.adapter.model_dump())


def collate(rows: Sequence[TokenizedRow]) -> Batch:
    """Padded rows with labels as transformers' models take them: the model shifts them itself."""
    batch = padded(rows)
    width = batch["input_ids"].shape[1]
    labels = torch.tensor([[*row[LABELS], *[IGNORED] * (width - len(row[LABELS]))] for row in rows])
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def _validation(request: UnslothRequest, model: Any) -> Validation:
    # Unsloth's forward passes take logits_to_keep as a number, not as a mask.
    objective = Likelihood(Batching(padded, with_some_logits=False))
    micro = request.training_arguments["per_device_train_batch_size"]
    assert isinstance(micro, int)  # noqa: S101 - the backend wrote it
    return Validation(model, held_out(request), micro, objective)


if __name__ == "__main__":
    worker_main(UnslothRequest, fine_tune)
