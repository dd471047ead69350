"""Whether a quantized model still computes what the merged model does, from a comparison of their logits.

Perplexity alone does not tell: a weak model that computes something else may have the same.
"""

import math
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_trainer.runtime.errors import BadInput

# A calibrated format is as good as plain rounding to the nearest value of the same width, or better: that is what its
# method is for (GPTQ, arXiv:2210.17323; AWQ, arXiv:2306.00978). More than twice the error of plain rounding, beside
# what computing in bfloat16 differs by (0.005 for a model in float16), is a method that went wrong.
TIMES_NEAREST: Final = 2.0
ROUNDING: Final = 0.01
# Beyond half of the logits' norm the width is too small for this model, however it is rounded.
MAX_ERROR: Final = 0.5
# In nats per token. 4-bit formats of models that people use stay below 0.1 (llama.cpp's tables of KL divergence).
MAX_KL: Final = 1.0
NOT_FINITE: Final = 1e9


def bound(nearest: float | None) -> float:
    """The largest relative error of the logits that an artifact may have.

    Args:
        nearest: the error of plain rounding to the same width; None where the format is just that.
    """
    return MAX_ERROR if nearest is None else min(MAX_ERROR, TIMES_NEAREST * nearest + ROUNDING)


def check(name: str, found: Fidelity, nearest: float | None) -> None:
    """Checks an artifact against its bounds.

    Raises:
        BadInput: the artifact computes something else than the merged model.
    """
    limit = bound(nearest)
    if found.logits_error <= limit and found.kl <= MAX_KL:
        return
    against = "" if nearest is None else f"; plain rounding to this width gives {nearest:.3g}"
    raise BadInput(
        reasons.QUANTIZATION_DIVERGED,
        f"{name} does not compute what the merged model does: the relative error of its logits on calibration rows is "
        f"{found.logits_error:.3g}, at most {limit:.3g} is allowed{against}. {described(found)}",
        f"Remove {name} from export.formats, or choose a format with more bits.",
    )


def described(found: Fidelity) -> str:
    """One sentence, for logs and messages."""
    return (
        f"Against the merged model: {found.kl:.4f} nats of KL divergence per token, "
        f"{100 * found.changed_top1:.1f} % other most likely tokens, logits error {found.logits_error:.4f}."
    )


def rounded(kl: float, changed: float, error: float) -> Fidelity:
    """The figures with four significant digits; what is not finite becomes a large number, as JSON has no other."""

    def short(value: float) -> float:
        return float(f"{value:.4g}") if math.isfinite(value) else NOT_FINITE

    return Fidelity(kl=short(kl), changed_top1=short(changed), logits_error=short(error))
