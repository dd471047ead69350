"""One contestant of bench.training, in a Python that has its packages: python -m bench.training_run NAME FOLDER ...

The time of Trainer.train is measured, and the batches that its collator makes are counted.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import torch
import transformers
import yaml

from bench.training import BATCH, BFLOAT16, LONGEST, THREADS

LEARNING_RATE: Final = 1e-3
RANK: Final = 16
SEED: Final = 42
WINDOW: Final = 10  # steps whose mean loss is told


class Run(NamedTuple):
    folder: Path
    rows: list[Any]
    steps: int
    micro: int
    precision: str
    """bf16 or fp32."""

    @property
    def in_bfloat16(self) -> bool:
        return self.precision == BFLOAT16


class Count:
    """Tokens that a model was given, and those of them that are no padding."""

    def __init__(self) -> None:
        self.real = self.given = 0

    def counted(self, collate: Callable[..., Any]) -> Callable[..., Any]:
        def collated(*arguments: Any, **options: Any) -> Any:
            batch = collate(*arguments, **options)
            ids, mask = batch["input_ids"], batch.get("attention_mask")
            self.given += ids.numel()
            # Axolotl numbers the rows of a packed sequence in the mask.
            self.real += ids.numel() if mask is None else int((mask != 0).sum())
            return batch

        return collated


def measure(folder: Path, name: str) -> None:
    """Makes Trainer.train write the figures of its run."""
    train = transformers.Trainer.train

    def timed(self: Any, *arguments: Any, **options: Any) -> Any:
        count = Count()
        self.data_collator = count.counted(self.data_collator)
        if hasattr(self, "train_data_collator"):  # Axolotl's
            self.train_data_collator = self.data_collator
        wall, cpu = time.monotonic(), time.process_time()
        result = train(self, *arguments, **options)
        losses = [float(entry["loss"]) for entry in self.state.log_history if "loss" in entry][-WINDOW:]
        figures = {
            "tokens": count.real,
            "padding": 1 - count.real / count.given,
            "wall_seconds": time.monotonic() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "loss": sum(losses) / len(losses),
            "steps": self.state.global_step,
        }
        (folder / f"{name}.json").write_text(json.dumps(figures))
        return result

    transformers.Trainer.train = timed


def tuneyard(run: Run) -> None:
    from tuneyard_api.contracts.requests import TrainRequest  # noqa: PLC0415 - not in every contestant's Python
    from tuneyard_api.kinds.training import Training  # noqa: PLC0415
    from tuneyard_trainer.backends.peft.backend import native_config  # noqa: PLC0415
    from tuneyard_trainer.backends.peft.worker import fine_tune  # noqa: PLC0415
    from tuneyard_trainer.data.shards import ShardWriter  # noqa: PLC0415

    folder = run.folder
    writer = ShardWriter(folder / "shards")
    for row in run.rows:
        writer.add(row)
    writer.finish()
    training = Training.model_validate(
        {
            "effectiveBatchSize": BATCH,
            "microBatchSize": run.micro,
            "maxSteps": run.steps,
            "precision": run.precision,
            "maxLength": LONGEST,
            "learningRate": LEARNING_RATE,
            "lora": {"rank": RANK, "alpha": 2 * RANK},
        }
    )
    out = folder / "tuneyard"
    request = TrainRequest(
        model=folder / "model",
        model_uri="s3://models/model",
        rows=folder / "shards",
        training=training,
        steps=run.steps,
        gpus=0,
        devices=1,
        threads=THREADS,
        checkpoints=out / "checkpoints",
        output=out / "adapter",
        native=out / "native",
        events=out / "events",
        stop_file=out / "stop",
    )
    fine_tune(native_config(request))


def trl(run: Run, *, packing: bool = False) -> None:
    """Packed, a step has as many sequences as have the tokens of 8 rows."""
    from datasets import Dataset, arrow_dataset  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    folder, rows = run.folder, run.rows
    width = max(512, *(len(row["input_ids"]) for row in rows))
    tokens = sum(len(row["input_ids"]) for row in rows)
    micro = 1 if packing else run.micro  # sequences, not rows
    per_step = max(1, round(tokens / run.steps / width)) if packing else BATCH
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        num_train_epochs=1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, per_step // micro),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        bf16=run.in_bfloat16,
        gradient_checkpointing=False,
        max_length=width,
        packing=packing,
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=SEED,
    )
    arrow_dataset.generate_fingerprint = lambda *_: uuid4().hex  # it cannot pickle the tables of pyarrow 26
    data = Dataset.from_list(rows)
    dtype = torch.bfloat16 if run.in_bfloat16 else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype)
    adapter = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    SFTTrainer(model=model, processing_class=tokenizer, args=arguments, train_dataset=data, peft_config=adapter).train()


def trl_packed(run: Run) -> None:
    trl(run, packing=True)


def axolotl(run: Run) -> None:
    """By its own command. It refuses to train on a CPU unless it is told to."""
    import pyarrow  # noqa: PLC0415
    from axolotl.cli.train import do_cli  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    folder = run.folder
    columns = {name: [row[name] for row in run.rows] for name in ("input_ids", "labels")}
    columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
    parquet.write_table(pyarrow.table(columns), folder / "rows.parquet")
    config = {
        "base_model": str(folder / "model"),
        "datasets": [{"path": str(folder / "rows.parquet"), "ds_type": "parquet", "type": ""}],
        "dataset_prepared_path": str(folder / "axolotl-prepared"),
        "output_dir": str(folder / "axolotl"),
        "sequence_len": LONGEST,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "adapter": "lora",
        "lora_r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_target_linear": True,
        **{f"lora_{part}_kernel": False for part in ("mlp", "qkv", "o")},
        "micro_batch_size": run.micro,
        "gradient_accumulation_steps": BATCH // run.micro,
        "max_steps": run.steps,
        "num_epochs": 1,
        "optimizer": "adamw_torch",
        "lr_scheduler": "cosine",
        "learning_rate": LEARNING_RATE,
        "bf16": False,
        "fp16": False,
        "bfloat16": run.in_bfloat16,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "attn_implementation": "sdpa",
        "weight_decay": 0.0,
        "val_set_size": 0,
        "device": "cpu",
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
    }
    (folder / "axolotl.yaml").write_text(yaml.safe_dump(config))
    post_init = transformers.TrainingArguments.__post_init__

    def on_cpu(self: Any) -> None:
        self.use_cpu = True
        post_init(self)

    transformers.TrainingArguments.__post_init__ = on_cpu
    do_cli(str(folder / "axolotl.yaml"))


CONTESTANTS: Final[dict[str, Callable[..., None]]] = {
    "tuneyard": tuneyard,
    "trl": trl,
    "trl-packed": trl_packed,
    "axolotl": axolotl,
}


def main(name: str, folder: Path, steps: int, micro: int, precision: str) -> None:
    torch.set_num_threads(THREADS)
    transformers.set_seed(SEED)
    measure(folder, name)
    CONTESTANTS[name](Run(folder, json.loads((folder / "rows.json").read_text()), steps, micro, precision))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
