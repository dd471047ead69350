"""Liger's kernels are used where they compute what the model's own code does; otherwise the model stays as it is."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from integration.conftest import token_rows
from integration.test_batches import MODELS, SIZES, adapted
from tuneyard_trainer.backends.peft import liger
from tuneyard_trainer.backends.peft.batches import padded, row_logits

ROWS = token_rows(3, seed=5)
PATCHES = "liger_kernel.transformers.monkey_patch"
HAVE_KERNELS = ("Llama", "Qwen2", "Qwen3", "Mistral with a window", "Phi-3 with a window", "OLMo 2")


def logits(model: PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return row_logits(model, padded(ROWS))


@pytest.fixture
def model() -> PeftModel:
    return adapted("llama", **SIZES)


Patch = Callable[[Any], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Patch], None]:
    def install(patch: Patch) -> None:
        """Puts a package in liger-kernel's place that patches Llama like this."""
        module = ModuleType(PATCHES)
        vars(module)["MODEL_TYPE_TO_APPLY_LIGER_FN"] = {"llama": patch}
        vars(module)["_apply_liger_kernel_to_instance"] = lambda model, **_: patch(model)
        for name in ("liger_kernel", "liger_kernel.transformers"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, PATCHES, module)

    return install


def replace(model: Any, factor: float) -> None:
    """As Liger does: a function of the model's file, and the forward pass of its modules."""
    rotate = transformers.models.llama.modeling_llama.apply_rotary_pos_emb
    transformers.models.llama.modeling_llama.apply_rotary_pos_emb = lambda *args: rotate(*args)
    for layer in model.model.layers:
        forward = layer.mlp.forward
        layer.mlp.forward = lambda hidden, forward=forward: factor * forward(hidden)
        layer.mlp.is_patched = True


def without_compiler(model: Any) -> None:
    replace(model, 2.0)
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        (without_compiler, "Failed to find C compiler. Please specify via CC environment variable"),
        (lambda model: replace(model, 2.0), "with them logits or gradients have a relative error of "),
    ],
)
def test_a_model_stays_as_it_is_without_kernels(
    model: PeftModel, install: Callable[[Patch], None], patch: Patch, problem: str
) -> None:
    install(patch)
    code = transformers.models.llama.modeling_llama
    before, rotate = logits(model), code.apply_rotary_pos_emb
    assert liger.patch(model, ROWS, "fp32").startswith(problem)
    assert torch.equal(logits(model), before)
    assert code.apply_rotary_pos_emb is rotate
    assert not any(hasattr(module, "is_patched") for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())


def test_the_end_of_memory_is_not_taken_for_a_missing_kernel(
    model: PeftModel, install: Callable[[Patch], None]
) -> None:
    def exhaust(_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    install(exhaust)
    with pytest.raises(torch.OutOfMemoryError):
        liger.patch(model, ROWS, "fp32")


def test_kernels_that_compute_the_same_are_used(
    model: PeftModel, install: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = transformers.models.llama.modeling_llama
    monkeypatch.setattr(code, "apply_rotary_pos_emb", code.apply_rotary_pos_emb)
    install(lambda model: replace(model, 1.0))
    assert liger.patch(model, ROWS, "fp32") == ""
    assert any(hasattr(module, "is_patched") for module in model.modules())


def test_a_model_without_kernels(install: Callable[[Patch], None]) -> None:
    install(lambda model: replace(model, 1.0))
    assert liger.patch(adapted(*MODELS["GPT-2"][:1], **MODELS["GPT-2"][1]), ROWS, "fp32").endswith("type gpt2")


def test_without_the_package(model: PeftModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    assert "liger_kernel" in liger.patch(model, ROWS, "fp32")


def test_the_kernels_themselves_in_the_interpreter() -> None:
    """Triton's interpreter computes on the CPU what a GPU would, though not in bfloat16."""
    pytest.importorskip("liger_kernel")
    pytest.importorskip("triton")
    command = [sys.executable, "-W", "ignore", "-m", "integration.test_liger"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{name}: " for name in HAVE_KERNELS]


def complete_interpreter() -> None:
    """Triton's interpreter has no libdevice, and leaves a float argument as it is, which a GPU gets in float32."""
    import numpy as np  # noqa: PLC0415
    from liger_kernel.ops import rms_norm  # noqa: PLC0415
    from triton import language  # noqa: PLC0415
    from triton.runtime import interpreter  # noqa: PLC0415

    convert = interpreter._implicit_cvt

    def converted(argument: Any) -> Any:
        if not isinstance(argument, float):
            return convert(argument)
        handle = interpreter.TensorHandle(np.array([argument], np.float32), language.float32)
        return language.tensor(handle, language.float32)

    interpreter._implicit_cvt = converted
    rms_norm.rsqrt = lambda value: language.rsqrt(value)  # the interpreter replaces it for each kernel


if __name__ == "__main__":
    complete_interpreter()
    for name in HAVE_KERNELS:
        print(f"{name}: {liger.patch(adapted(MODELS[name][0], **MODELS[name][1]), ROWS, 'fp32')}")
