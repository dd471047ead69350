"""The estimate of the memory that a training needs, against what was counted on the CPU."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.docs import ROOT
from support.memorystore import MemoryStore
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import FitStatus
from tuneyard_trainer.backends.microbatch import with_micro_batch_size
from tuneyard_trainer.model.fit import activation_bytes, adapter_parameters, estimate_fit, sizes_of, weight_bytes
from tuneyard_trainer.model.gpus import GIB, device_of, gpu_named
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import DoesNotFit
from tuneyard_trainer.stages.prepare import check_fit

SMOLLM = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
QWEN3_8B = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def shape(config: dict[str, Any], layers: int, *, tied: bool = False) -> ModelShape:
    """A Llama-like model with so many layers."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    matrices = {
        **{f"self_attn.{name}_proj": (rows, hidden) for name, rows in zip("qkv", (queries, keys, keys), strict=True)},
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    tensors: dict[str, tuple[int, ...]] = {
        f"model.layers.{number}.{name}.weight": size for number in range(layers) for name, size in matrices.items()
    }
    tensors["model.embed_tokens.weight"] = (config["vocab_size"], hidden)
    if not tied:
        tensors["lm_head.weight"] = (config["vocab_size"], hidden)
    return ModelShape(config | {"num_hidden_layers": layers}, tensors)


def spec(
    resources: dict[str, Any] | None = None, fit: dict[str, Any] | None = None, **training: Any
) -> FineTuneJobSpec:
    given = {
        "model": {"uri": "s3://models/a"},
        "dataset": {"train": [{"uri": "s3://data/a"}]},
        "output": {"uri": "s3://out/a"},
        "training": training,
        "resources": resources or {},
        "fit": fit or {},
    }
    return FineTuneJobSpec.model_validate(given)


# Bytes that autograd kept, without the logits, counted with torch.autograd.graph.saved_tensors_hooks (each storage
# once, parameters not) in PEFT 0.21 on SmolLM2-135M cut to so many layers, LoRA of rank 16 on all linear layers. The
# backend peft shares the inputs of layers (peft/model.py), axolotl does not.
LOGITS = 12582912
COUNTED: list[tuple[int, int, dict[str, Any], int]] = [
    (2, 256, {}, 12201984),
    (4, 256, {}, 24393728),
    (2, 512, {}, 23808000),
    (2, 256, {"backend": "axolotl"}, 27144964 - LOGITS),
    (4, 256, {"backend": "axolotl"}, 41696004 - LOGITS),
    (2, 512, {"backend": "axolotl"}, 53693956 - 2 * LOGITS),
    (2, 256, {"precision": "fp32"}, 33413892 - LOGITS),
]


@pytest.mark.parametrize(("layers", "tokens", "training", "counted"), COUNTED)
def test_activations_are_those_that_were_counted(
    layers: int, tokens: int, training: dict[str, Any], counted: int
) -> None:
    sizes = sizes_of(shape(SMOLLM, layers, tied=True))
    assert sizes is not None
    given = spec(**training).training
    estimated = activation_bytes(given, sizes, tokens, 4 if "precision" in training else 2)
    assert estimated == pytest.approx(counted, rel=0.1)


def test_checkpointing_keeps_the_inputs_of_the_layers() -> None:
    """1,771,268 bytes were counted with four layers; one layer in full comes on top of them."""
    sizes = sizes_of(shape(SMOLLM, 4, tied=True))
    assert sizes is not None
    one = activation_bytes(spec().training, sizes._replace(layers=1), 256, 2)
    estimated = activation_bytes(spec(gradientCheckpointing=True).training, sizes, 256, 2)
    assert estimated - one == pytest.approx(14354180 - LOGITS - 589824, rel=0.01)  # the last norm's input


def test_adapter_parameters_are_those_of_peft() -> None:
    """651,264 and 61,440 were counted in PEFT's models."""
    assert adapter_parameters(spec().training, shape(SMOLLM, 4, tied=True)) == 651264
    two = spec(lora={"targetModules": ["q_proj", "v_proj"]}).training
    assert adapter_parameters(two, shape(SMOLLM, 2, tied=True)) == 61440


def test_weights_of_an_8b_model() -> None:
    model = shape(QWEN3_8B, 36)
    assert weight_bytes(spec().training, model, 2) / GIB == pytest.approx(15.26, abs=0.01)
    nf4 = weight_bytes(spec(method="qlora").training, model, 2) / GIB
    # 6.95 billion parameters in 4.127 bits, 1.24 billion in 4 bytes, and one matrix of 4096 x 12288 in bf16.
    assert nf4 == pytest.approx(3.34 + 4.64 + 0.09, abs=0.02)


@pytest.mark.parametrize(
    ("resources", "fit", "device", "gib"),
    [
        ({"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}}, {}, "NVIDIA-A100-SXM4-80GB", 80),
        ({"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-PCIE-40GB"}}, {}, "NVIDIA-A100-PCIE-40GB", 40),
        ({"nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-l4"}}, {}, "nvidia-l4", 22.5),
        ({"nodeSelector": {"karpenter.k8s.aws/instance-gpu-name": "a10g"}}, {}, "a10g", 22.5),
        ({"nodeSelector": {"nvidia.com/gpu.product": "Tesla-T4"}}, {}, "Tesla-T4", 15),
        ({"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090"}}, {}, "NVIDIA-GeForce-RTX-4090", 24),
        ({"nodeSelector": {"nvidia.com/gpu.memory": "46068"}}, {}, "nvidia.com/gpu.memory: 46068", 44.99),
        ({"gpuResourceName": "nvidia.com/mig-3g.40gb"}, {}, "nvidia.com/mig-3g.40gb", 40),
        ({"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}, {"gpuMemoryGiB": 20}, None, 20),
        ({"nodeSelector": {"kubernetes.io/arch": "t4"}}, {}, "nvidia.com/gpu", None),
        ({"gpus": 0, "limits": {"memory": "8Gi"}}, {}, "the pod's limit of memory", 8),
        ({"gpus": 0}, {}, "the pod's limit of memory", None),
    ],
)
def test_devices(resources: dict[str, Any], fit: dict[str, Any], device: str | None, gib: float | None) -> None:
    found = device_of(spec(resources, fit))
    assert found.name == (device or "fit.gpuMemoryGiB")
    assert found.gib == (None if gib is None else pytest.approx(gib, abs=0.01))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-L40", "L40S"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA-H100-NVL", "H100 NVL"),
        ("NVIDIA-RTX-A6000", "RTX 6000 Ada"),
        ("NVIDIA-RTX-6000-Ada-Generation", "RTX 6000 Ada"),
        ("Tesla-V100-SXM2-32GB", "V100 32 GB"),
        ("nvidia-tesla-v100", "V100 16 GB"),
        ("nvidia-a100-80gb", "A100 80 GB"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
        ("NVIDIA-GeForce-RTX-2060", None),
        ("NVIDIA-A1000", None),
    ],
)
def test_names_of_gpus(value: str, name: str | None) -> None:
    found = gpu_named(value)
    assert (found.name if found else None) == name


L4 = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}


def estimated(resources: dict[str, Any], micro: int, **training: Any) -> FitStatus:
    found = estimate_fit(spec(resources, **training), shape(QWEN3_8B, 36), micro)
    assert found is not None
    assert sum(found.parts.values()) == pytest.approx(found.required_gib, abs=0.1)
    return found


def test_verdicts_and_advice() -> None:
    large = estimated(L4, 8)
    assert large.verdict == "DoesNotFit"
    assert large.advice is not None
    assert "Set training {method: qlora, gradientCheckpointing: true, microBatchSize: 1}" in large.advice
    assert large.advice.endswith("GPU of 79.6 GiB (H100) would do.")
    small = estimated(L4, 1, gradientCheckpointing=True, maxLength=512)
    assert (small.verdict, small.advice) == ("Fits", None)
    unknown = estimated({}, 1, gradientCheckpointing=True, maxLength=512)
    assert (unknown.verdict, unknown.available_gib) == ("Unknown", None)
    assert unknown.advice == ("Set fit.gpuMemoryGiB for a verdict. As it is, a GPU of 22.5 GiB (L4) would do.")


def test_what_is_advised_fits() -> None:
    """Each change that is advised gives the verdict Fits when it is made."""
    before = estimated(L4, 4)
    assert before.verdict == "DoesNotFit"
    assert before.advice is not None
    assert "training.microBatchSize" not in before.advice, "one row alone does not fit on an L4"
    after = estimated(L4, 1, method="qlora", gradientCheckpointing=True)
    assert after.verdict == "Fits"


def test_streamed_weights_are_those_of_one_layer() -> None:
    """Of the others only the scales are in memory, and with them the embedding and the head in float32."""
    ends, layers = shape(QWEN3_8B, 0), shape(QWEN3_8B, 36)
    parts = estimated(L4, 1, method="qlora", streamWeights=True).parts
    outside = 4 * sum(math.prod(size) for size in ends.tensors.values())
    of_layers = sum(math.prod(size) for name, size in layers.tensors.items() if name not in ends.tensors)
    scales, one, decoded = of_layers * 0.0159, of_layers / 36 / 2, 2 * 4096 * 12288
    assert parts["weights"] * 2**30 == pytest.approx(outside + scales + one + decoded, rel=0.01)
    assert parts["activations"] == estimated(L4, 1, method="qlora", gradientCheckpointing=True).parts["activations"]


def test_what_is_advised_for_the_largest_models() -> None:
    """The sample of docs/training.md: 70B on 24 GB."""
    given = yaml.safe_load((ROOT / "examples" / "larger-than-memory.yaml").read_text())["spec"]
    found = estimate_fit(FineTuneJobSpec.model_validate(given), shape(LLAMA_70B, 80), 1)
    assert found is not None
    assert (found.verdict, found.required_gib) == ("Fits", 16.4)
    given["training"]["streamWeights"] = False
    found = estimate_fit(FineTuneJobSpec.model_validate(given), shape(LLAMA_70B, 80), 1)
    assert found is not None
    assert found.verdict == "DoesNotFit"
    assert "Set training {method: qlora, streamWeights: true, microBatchSize: 1} (16.4 GiB)" in str(found.advice)


def micro_batch(resources: dict[str, Any], fit: dict[str, Any] | None = None, **training: Any) -> int | None:
    given = spec(resources, fit, microBatchSize="auto", **training)
    resolved = with_micro_batch_size(given, shape(QWEN3_8B, 36))
    assert resolved.training.effective_batch_size == given.training.effective_batch_size
    return resolved.training.given_micro_batch_size


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("effective", [16, 24])
@pytest.mark.parametrize("gib", [24.0, 40.0, 80.0, 140.0])
def test_auto_is_as_many_rows_as_fit(gib: float, effective: int, method: str) -> None:
    """One more row that divides the batch would be tight."""
    training = {"effectiveBatchSize": effective, "method": method, "gradientCheckpointing": True}
    rows = micro_batch({}, {"gpuMemoryGiB": gib}, **training)
    assert rows is not None
    assert effective % rows == 0
    given = spec({}, {"gpuMemoryGiB": gib}, **training)
    more = [size for size in range(rows + 1, effective + 1) if effective % size == 0]
    verdicts = {size: estimate_fit(given, shape(QWEN3_8B, 36), size) for size in (rows, *more)}
    said = {size: found.verdict for size, found in verdicts.items() if found}
    assert said.pop(rows) == "Fits"
    assert "Fits" not in said.values()
    assert len(said) == len(more)


def test_auto_where_nothing_fits_or_is_known() -> None:
    assert micro_batch(L4) == 1, "not even one row fits"
    assert micro_batch({"gpus": 1}) == 8, "the memory is not known: the default"
    assert micro_batch(L4, method="full", effectiveBatchSize=4) == 4, "it is not estimated"
    assert micro_batch({"gpus": 4}, {"gpuMemoryGiB": 500}) == 4, "of 16 rows a device has 4"
    given = spec(L4, microBatchSize=2)
    assert with_micro_batch_size(given, shape(QWEN3_8B, 36)) is given


def test_prepare_estimates_for_the_rows_of_auto(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    given = spec({}, {"gpuMemoryGiB": 40}, microBatchSize="auto", gradientCheckpointing=True)
    context = StageContext(stage="prepare", name="x", spec=given, store=MemoryStore(), work=tmp_path)
    check_fit(context, shape(QWEN3_8B, 36))
    assert context.fit is not None
    assert context.fit.verdict == "Fits"
    assert context.fit.micro_batch_size == micro_batch({}, {"gpuMemoryGiB": 40}, gradientCheckpointing=True)
    assert f"{context.fit.micro_batch_size} rows at a time" in caplog.text


def test_several_gpus_exchange_gradients() -> None:
    one, two = estimated({"gpus": 1}, 1), estimated({"gpus": 2}, 1)
    assert two.parts["gradients"] == pytest.approx(2 * one.parts["gradients"], abs=0.02)
    assert two.parts["weights"] == one.parts["weights"]


def test_unknown_sizes_have_no_estimate() -> None:
    assert estimate_fit(spec(), ModelShape({"model_type": "mamba"}, {}), 1) is None


@pytest.mark.parametrize("policy", ["Warn", "Enforce"])
def test_the_policy(policy: str, tmp_path: Path) -> None:
    given = spec(L4, {"policy": policy}, effectiveBatchSize=4, microBatchSize=4)
    context = StageContext(stage="prepare", name="x", spec=given, store=MemoryStore(), work=tmp_path)
    if policy == "Warn":
        check_fit(context, shape(QWEN3_8B, 36))
    else:
        with pytest.raises(DoesNotFit, match=r"of 22\.5 GiB .*: DoesNotFit; weights 15\.26, .*qlora") as error:
            check_fit(context, shape(QWEN3_8B, 36))
        assert (error.value.reason, error.value.exit_code) == ("Unfit", 78)
    assert context.fit is not None
    assert context.fit.verdict == "DoesNotFit"
