"""The rows of the experiments, trained by TRL's SFTTrainer: python -m gpu.trl_run ROWS MODEL OUTPUT STEPS [packed]

With TRL's own defaults but for batch, adapter and precision, which are those of the experiments with tuneyard.
"""

import sys
import time
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import torch
import transformers
from datasets import Dataset, arrow_dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from trl import SFTConfig, SFTTrainer

from gpu.training import LENGTH, MICRO, PEAK, RANK, ROWS_A_STEP, SPEED_LINE
from tuneyard_trainer.data.shards import read_rows

PAD: Final = "<pad>"


class Speed(transformers.TrainerCallback):  # type: ignore[misc]
    """Writes the real tokens per second of each step, timed as those of tuneyard's own callback."""

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self.masks: list[torch.Tensor] = []

    def watch(self, trainer: Any) -> None:
        """Counts the tokens of what the trainer gives the model, without padding."""
        compute = trainer.compute_loss

        def compute_loss(model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
            self.masks.append(inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])))
            return compute(model, inputs, *arguments, **options)

        trainer.compute_loss = compute_loss

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started_at = time.monotonic()
        self.masks = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            seconds = time.monotonic() - self.started_at
            print(f"{SPEED_LINE}{sum(int(mask.sum()) for mask in self.masks) / seconds}", flush=True)


def tokenizer() -> Any:
    """Of a single token: the rows are tokens already, and SFTTrainer wants to know which one pads."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({PAD: 0}, unk_token=PAD)), pad_token=PAD, eos_token=PAD
    )


def arguments(output: Path, rows: list[Any], steps: int, packed: bool) -> Any:
    """Packed, a micro batch has as many sequences of LENGTH tokens as MICRO rows fill on average."""
    tokens = sum(len(row["input_ids"]) for row in rows) / len(rows) * MICRO
    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=max(1, round(tokens / LENGTH)) if packed else MICRO,
        gradient_accumulation_steps=ROWS_A_STEP // MICRO,
        learning_rate=2e-4,
        bf16=True,
        gradient_checkpointing=False,
        max_length=LENGTH,
        packing=packed,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )


def main(folder: Path, model: Path, output: Path, steps: int, packed: bool) -> None:
    rows = [dict(row) for row in read_rows(folder)]
    arrow_dataset.generate_fingerprint = lambda *_: uuid4().hex  # it cannot pickle the tables of pyarrow 26
    speed = Speed()
    trainer = SFTTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.bfloat16, device_map={"": 0} if torch.cuda.is_available() else None
        ),
        processing_class=tokenizer(),
        args=arguments(output, rows, steps, packed),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[speed],
    )
    speed.watch(trainer)
    trainer.train()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), "packed" in sys.argv[5:])
    finally:
        if torch.cuda.is_available():
            print(f"{PEAK}{torch.cuda.max_memory_reserved()}", flush=True)
