"""The axolotl backend without torch: config.yaml, the rows, and what is refused before a GPU is asked for."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import parquet

from tuneyard_api.contracts.requests import TrainRequest
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.backends import check_training
from tuneyard_trainer.backends.axolotl.backend import AxolotlRequest, native_config
from tuneyard_trainer.backends.axolotl.config import axolotl_config
from tuneyard_trainer.backends.axolotl.overrides import check_overrides
from tuneyard_trainer.backends.axolotl.packing import bins, plan
from tuneyard_trainer.data.columns import IGNORED, TokenizedRow
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.runtime.errors import BadInput

GOLDEN = Path(__file__).parent / "axolotl.yaml"
LENGTHS = [30, 50, 40] * 200


def request(training: dict[str, Any], **changes: Any) -> TrainRequest:
    fields: dict[str, Any] = {
        "model": Path("base"),
        "model_uri": "s3://models/a",
        "rows": Path("rows"),
        "validation_rows": Path("held-out"),
        "validation_count": 2,
        "validation_steps": 5,
        "training": Training.model_validate({"backend": "axolotl", **training}),
        "steps": 100,
        "gpus": 1,
        "devices": 1,
        "checkpoints": Path("checkpoints"),
        "output": Path("adapter"),
        "native": Path("native"),
        "events": Path("events"),
        "stop_file": Path("stop"),
    }
    return TrainRequest(**fields | changes)


def config(training: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return axolotl_config(request(training, **changes), LENGTHS)


def test_the_config_of_a_qlora_job_is_the_golden_one() -> None:
    """The file is Axolotl's own: `accelerate launch -m axolotl.cli.train` reads it."""
    training = {"method": "qlora", "lora": {"dropout": 0.05}, "gradientCheckpointing": True, "warmupRatio": 0.1}
    text = yaml.safe_dump(config({**training, "overrides": {"loraplus_lr_ratio": 16}}), sort_keys=False)
    assert text == GOLDEN.read_text()


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"lora": {"targetModules": ["v_proj", "q_proj"]}}, {"lora_target_modules": ["q_proj", "v_proj"]}),
        ({"lora": {"variant": "rslora"}}, {"peft_use_rslora": True}),
        ({"scheduler": "constant"}, {"lr_scheduler": "constant_with_warmup"}),
        ({"precision": "fp32"}, {"bf16": False}),
        ({"attention": "flash_attention_2"}, {"attn_implementation": "flash_attention_2"}),
        ({"seed": 7}, {"seed": 7}),
        (
            {"packing": False, "effectiveBatchSize": 16, "microBatchSize": 4, "maxLength": 512},
            {"micro_batch_size": 4, "gradient_accumulation_steps": 4, "sequence_len": 512, "sample_packing": False},
        ),
        ({"overrides": {"weight_decay": 0.1}}, {"weight_decay": 0.1}),
    ],
)
def test_each_field_is_in_the_config(training: dict[str, Any], expected: dict[str, Any]) -> None:
    written = config(training)
    assert written | expected == written


def test_a_cpu_has_neither_kernels_nor_bfloat16() -> None:
    assert config({})["bf16"] is True
    assert "lora_mlp_kernel" not in config({})
    on_cpu = config({}, gpus=0)
    assert not any(on_cpu[name] for name in ("bf16", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"))


def test_without_held_out_rows_nothing_is_validated() -> None:
    assert not {"test_datasets", "eval_steps"} & set(config({}, validation_rows=None))


@pytest.mark.parametrize("lengths", [LENGTHS, [40] * 600, [10] * 590 + [1000] * 10, [8, 900] * 50])
@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_packed_step_has_about_the_rows_of_the_spec(lengths: list[int], micro: int | None, devices: int) -> None:
    training = Training(effective_batch_size=32, micro_batch_size=micro, max_length=1024)
    packing = plan(training, lengths, devices)
    assert max(lengths) <= packing.sequence_len <= 1024
    rows = packing.sequences * devices * len(lengths) / len(bins(lengths, packing.sequence_len))
    longest = packing.sequence_len == max(lengths)
    assert rows == pytest.approx(32, rel=0.3) or (longest and packing.sequences == 1), rows


def test_bins_keep_the_order_and_the_capacity() -> None:
    assert bins([5, 4, 3, 9, 1], 10) == [9, 3, 10]


def write_rows(directory: Path, count: int) -> list[TokenizedRow]:
    rows = [{"input_ids": [5 + index, 6, 7], "labels": [IGNORED, 6, 7]} for index in range(count)]
    writer = ShardWriter(directory)
    for row in rows:
        writer.add(row)
    writer.finish()
    return rows


def test_the_rows_are_tokenized_ones_to_axolotl(tmp_path: Path) -> None:
    rows, held_out = write_rows(tmp_path / "rows", 30), write_rows(tmp_path / "held-out", 3)
    (tmp_path / "native").mkdir()
    made = native_config(
        request({}, rows=tmp_path / "rows", validation_rows=tmp_path / "held-out", native=tmp_path / "native")
    )
    trained = parquet.read_table(tmp_path / "native" / "train.parquet").to_pylist()
    assert sorted(trained, key=lambda row: row["input_ids"]) == [{**row, "attention_mask": [1, 1, 1]} for row in rows]
    assert [row["input_ids"] for row in trained] != [row["input_ids"] for row in rows], "shuffled"
    validated = parquet.read_table(tmp_path / "native" / "validation.parquet").to_pylist()
    assert [row["input_ids"] for row in validated] == [row["input_ids"] for row in held_out[:2]]
    assert yaml.safe_load(made.config.read_text())["datasets"] == [
        {"path": "train.parquet", "ds_type": "parquet", "type": ""}
    ]
    assert AxolotlRequest.model_validate_json(made.model_dump_json(by_alias=True)) == made


def spec_of(training: dict[str, Any], **parts: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/a"},
            "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
            "training": training,
            "output": {"uri": "s3://artifacts/a"},
            **parts,
        }
    )


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"overrides": {"learning_rate": 1e-3}}, r"overrides\.learning_rate is set by another .* set training\.learn"),
        ({"overrides": {"datasets": []}}, r"overrides\.datasets is set by another field .* set dataset"),
        ({"overrides": {"weight_decai": 0.1}}, "Axolotl has no setting weight_decai.* Did you mean weight_decay"),
        ({"overrides": {"fsdp_version": 2}}, r"overrides\.fsdp_version is not possible here"),
        ({"overrides": {"plugins": ["a.B"]}}, r"overrides\.plugins is not possible here: it loads code"),
    ],
)
def test_what_the_stage_owns_is_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_training(spec_of({"backend": "axolotl", **training}))


def test_several_cpus_are_refused() -> None:
    with pytest.raises(BadInput, match=r"one CPU, and resources\.nodes is 2"):
        check_training(spec_of({"backend": "axolotl"}, resources={"gpus": 0, "nodes": 2}))


def test_every_setting_that_the_stage_writes_is_its_own() -> None:
    """An override would silently change it."""
    free = {"optimizer", "weight_decay", "max_grad_norm", "tf32"}
    for key in set(config({})) | set(config({"packing": False, "gradientCheckpointing": True}, gpus=0)):
        if key not in free and not key.endswith("_kernel"):
            with pytest.raises(BadInput, match=r"is set by another field|is not possible here|has no setting"):
                check_overrides({key: None})


def test_an_override_is_accepted() -> None:
    check_training(spec_of({"backend": "axolotl", "overrides": {"weight_decay": 0.1, "adam_beta2": 0.95}}))


def test_peft_takes_no_overrides() -> None:
    with pytest.raises(ValueError, match="of the backends only axolotl has it: leave it out, or set backend: axolotl"):
        spec_of({"overrides": {"weight_decay": 0.1}})
