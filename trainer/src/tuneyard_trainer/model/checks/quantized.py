"""The base is in full precision: an adapter is merged into its weights, which quantized ones do not allow."""

import re
from collections.abc import Mapping
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.runtime.errors import BadInput

ADVICE: Final = (
    "Tune the model in full precision: its name often lacks -GPTQ, -AWQ, -FP8 or -bnb-4bit. To train with less memory "
    "set training.method: qlora, and to serve it smaller name formats in export.formats."
)
# The files that AutoGPTQ and AutoAWQ wrote before config.json had the field.
FILES: Final = ("quantize_config.json", "quant_config.json")
FIELDS: Final = ("quantization_config", "compression_config")
FULL_PRECISION: Final = frozenset({"F64", "F32", "F16", "BF16"})
# Of GPTQ and AWQ, compressed-tensors, FP8, bitsandbytes, HQQ and MXFP4.
PARTS: Final = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale|weight_scale_inv|weight_zero_point|weight_global_scale"
    r"|SCB|weight_format|W_q|[a-z_]*_blocks|weight\.(absmax|quant_map|quant_state\..*|nested_absmax))$"
)


def check(model: BaseModel, training: Training) -> None:
    method = configured(model.config)
    if method is not None:
        raise _refused(model, f"config.json says {method}")
    if found := next((name for name in FILES if name in model.files), None):
        raise _refused(model, f"it has {found}")
    for name, tensor in model.tensors.items():
        if PARTS.search(name):
            raise _refused(model, f"its files have {name}")
        if name.endswith(".weight") and tensor.dtype not in FULL_PRECISION:
            raise _refused(model, f"its weight {name} is of the type {tensor.dtype}")


def configured(config: Mapping[str, Any]) -> str | None:
    """The quantization that config.json describes, in the model itself or in the part that is for text."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for field in FIELDS:
            if given := part.get(field):
                method = given.get("quant_method") if isinstance(given, dict) else None
                return f"{field}.quant_method: {method}" if method else f"it has a {field}"
    return None


def _refused(model: BaseModel, why: str) -> BadInput:
    return BadInput(reasons.UNSUPPORTED_MODEL, f"The model at {model.uri} is already quantized: {why}", ADVICE)
