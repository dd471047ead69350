"""Which modules of a model an adapter can change: what training.lora.targetModules may name.

All of them can be merged: exporters/merge_worker.py merges whatever PEFT adapts, by PEFT's own arithmetic.
"""

from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import PEFT, Lora, Training
from tuneyard_trainer.model.shape import ModelShape, kind
from tuneyard_trainer.runtime.errors import BadInput

ALL_LINEAR: Final = "all-linear"


def shares_inputs(training: Training) -> bool:
    """Whether adapted layers with the same input in bfloat16 keep one copy of it for the gradient, not one each.

    Dropout, and the norms of DoRA, are computed of a copy in float32, and in a QLoRA all inputs are in float32.
    """
    lora = training.lora
    return training.backend == PEFT and training.method == "lora" and not lora.dropout and lora.variant != "dora"


# transformers 5 loads the experts of a mixture as two parameters a layer, which PEFT adapts by the names of the files
# for these model types (transformers.conversion_mapping, peft.utils.transformers_weight_conversion).
MIXTRAL_LIKE: Final = frozenset({"mixtral", "minimax", "minimax_m2"})
QWEN_MOE_LIKE: Final = frozenset(
    [
        "afmoe",
        "cohere2_moe",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "dots1",
        "ernie4_5_moe",
        "exaone_moe",
        "flex_olmo",
        "glm4_moe",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "hunyuan_v1_moe",
        "longcat_flash",
        "mellum",
        "olmoe",
        "qwen3_moe",
        "qwen3_next",
        "solar_open",
    ]
)
# Two of them are one parameter, so that they are adapted together or not at all.
FUSED: Final = {
    **dict.fromkeys(MIXTRAL_LIKE, frozenset({"w1", "w3"})),
    **dict.fromkeys(QWEN_MOE_LIKE, frozenset({"gate_proj", "up_proj"})),
}


def adaptable_modules(shape: ModelShape) -> dict[str, str | None]:
    """The last parts of the names of the modules with a matrix; for each the reason why it cannot be adapted, or None.

    A name that stands for several modules is adaptable if one of them is.
    """
    reasons_by_name: dict[str, str | None] = {}
    for name, dimensions in shape.tensors.items():
        module, _, parameter = name.rpartition(".")
        if parameter != "weight" or len(dimensions) != 2:  # a matrix
            continue
        leaf, reason = module.rsplit(".", 1)[-1], why_not(module, shape)
        if reason is None or leaf not in reasons_by_name:
            reasons_by_name[leaf] = reason
    return reasons_by_name


def why_not(module: str, shape: ModelShape) -> str | None:
    """Why a module with a matrix cannot be adapted; None where it can."""
    match kind(module):
        case "embedding":
            return "an embedding"
        case "head":
            return "the output layer, which is often tied to the embedding"
        case "router":
            return "a router of experts"
        case _ if "experts" in module.split(".") and shape.model_type not in FUSED:
            return "a part of the experts, which PEFT cannot adapt in this kind of model"
    return None


def check_target_modules(lora: Lora, shape: ModelShape, model_uri: str) -> None:
    """Checks that an adapter can be made as it is asked for.

    Raises:
        BadInput: a name is that of no module that can be adapted, or the experts cannot be adapted so.
    """
    if not shape.tensors:
        return
    known = adaptable_modules(shape)
    names = lora.target_modules
    listed = f"Write [{ALL_LINEAR}], or names of: {', '.join(sorted(name for name, why in known.items() if not why))}."
    if names == [ALL_LINEAR]:
        names = [name for name, why in known.items() if why is None]
    for name in names:
        leaf = name.rsplit(".", 1)[-1]
        if not any(f".{module}".endswith(f".{name}") for module in _modules(shape)):
            raise _refused(f"{name} is not a module of the model at {model_uri}", listed)
        if why := known.get(leaf, "no linear layer"):
            raise _refused(f"{name} cannot be adapted: it is {why}", listed)
    _check_experts(lora, set(names), shape)


def _check_experts(lora: Lora, names: set[str], shape: ModelShape) -> None:
    """PEFT adapts joint parameters without dropout, and only together (peft.tuners.lora.ParamWrapper)."""
    leaves = {name.rsplit(".", 1)[-1] for name in names}
    in_experts = {module.rsplit(".", 1)[-1] for module in _modules(shape) if "experts" in module.split(".")}
    adapted = leaves & in_experts
    if shape.model_type not in FUSED or not adapted:
        return
    if lora.dropout:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.lora.dropout is {lora.dropout}, but the experts' {', '.join(sorted(adapted))} are joint "
            "parameters in transformers, which are adapted without dropout",
            "Set training.lora.dropout: 0, or leave them out of training.lora.targetModules.",
        )
    if lora.variant == "dora":
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.lora.variant is dora, but the experts' {', '.join(sorted(adapted))} are joint parameters in "
            "transformers, for which PEFT has no DoRA",
            "Set training.lora.variant: lora or rslora, or leave them out of training.lora.targetModules.",
        )
    fused = FUSED[shape.model_type]
    if missing := fused - leaves if fused & leaves else None:
        raise _refused(
            f"the experts' {' and '.join(sorted(fused))} are one parameter in transformers, and are adapted together",
            f"Add {', '.join(sorted(missing))}.",
        )


def _modules(shape: ModelShape) -> list[str]:
    return [name.removesuffix(".weight") for name in shape.tensors if name.endswith(".weight")]


def _refused(problem: str, advice: str) -> BadInput:
    return BadInput(reasons.INVALID_SPEC, f"training.lora.targetModules: {problem}", advice)
