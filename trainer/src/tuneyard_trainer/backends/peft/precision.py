"""The precision that a machine computes in."""

from tuneyard_trainer.backends.peft.backend import PeftRequest
from tuneyard_trainer.weights.precision import computes_in_bfloat16


def in_native_precision(request: PeftRequest) -> PeftRequest:
    """The request in float32 where a CPU has no instructions for bfloat16.

    Without AVX-512 or AMX PyTorch has no fast kernels for it: with AVX2 a product of matrices takes 7 times as long as
    in float32, and its backward pass 30 to 50 times (PyTorch 2.13). The weights take twice the memory.
    """
    if request.training.precision != "bf16" or computes_in_bfloat16():
        return request
    print("This CPU has no instructions for bfloat16: the training computes in float32, which is many times faster.")
    training = request.training.model_copy(update={"precision": "fp32"})
    arguments = request.training_arguments | {"bf16": False}
    return request.model_copy(update={"training": training, "training_arguments": arguments})
