"""Writes src/tuneyard_trainer/model/architectures.json: what transformers knows of each model type.

Run it with the trainer image's Python after its transformers has changed: prepare reads the table, because importing
transformers would take longer than everything else that it does. tests/integration compares the two.

Each causal language model is built without memory (on the meta device), with small sizes that all differ. So the shape
of a parameter tells which sizes it is made of. A parameter that is not always there, whatever the flags of the
configuration are, is left out.
"""

import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto import modeling_auto

TABLE = Path(__file__).parent / "src/tuneyard_trainer/model/architectures.json"

LAYERS = 4
SIZES = {
    "hidden_size": 96,
    "intermediate_size": 136,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 20,
    "vocab_size": 328,
    "max_position_embeddings": 72,
    "num_hidden_layers": LAYERS,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "moe_intermediate_size": 32}
# Parameters that transformers makes of others when it loads a model: their names in the files differ.
CONVERTED = re.compile(r"experts|router")
# What is not built in memory to see under which names it is saved.
MAX_PARAMETERS = 50_000_000
MAPPINGS = (
    "CAUSAL_LM",
    "MASKED_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "TEXT_TO_WAVEFORM",
)
NOT_FLIPPED = {"tie_word_embeddings", "use_cache"}

Json = dict[str, Any]


def kinds() -> dict[str, str]:
    """What each model type is: decoder, encoder, seq2seq, multimodal or other."""
    names = {name: set(getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES")) for name in MAPPINGS}
    multimodal = names["IMAGE_TEXT_TO_TEXT"] | names["MULTIMODAL_LM"] | names["TEXT_TO_WAVEFORM"]
    seq2seq = names["SEQ_TO_SEQ_CAUSAL_LM"] | names["SPEECH_SEQ_2_SEQ"]
    found: dict[str, str] = {}
    for model_type in CONFIG_MAPPING:
        if model_type in multimodal:
            kind = "multimodal"
        elif model_type in seq2seq:
            kind = "seq2seq"
        elif model_type in names["MASKED_LM"]:
            kind = "encoder"
        else:
            kind = "decoder" if model_type in names["CAUSAL_LM"] else "other"
        found[model_type] = kind
    return found


def field_names(model_type: str) -> dict[str, str]:
    """The names of the sizes in config.json, for those that this model type has."""
    cls = CONFIG_MAPPING[model_type]
    default, own = cls(), getattr(cls, "attribute_map", None) or {}
    names = {size: own.get(size, size) for size in SIZES}
    return {size: name for size, name in names.items() if hasattr(default, name)}


def small(model_type: str, **flags: bool) -> Any:
    """A configuration with the small sizes. Some models read head_dim though their configuration does not list it."""
    cls = CONFIG_MAPPING[model_type]
    given = {name: SIZES[size] for size, name in field_names(model_type).items()}
    experts = {name: value for name, value in EXPERTS.items() if hasattr(cls(), name)}
    return cls(**{"head_dim": SIZES["head_dim"]} | TOKENS | experts | given | flags)


def built(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def symbols() -> dict[int, str]:
    """What a number in a shape stands for; see Structure.sizes, which computes them from config.json."""
    heads, keys, dim = (SIZES[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    hidden, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    return {
        SIZES["vocab_size"]: "vocab",
        hidden: "hidden",
        inner: "inner",
        2 * inner: "2*inner",
        3 * hidden: "3*hidden",
        heads * dim: "queries",
        keys * dim: "keys",
        (heads + 2 * keys) * dim: "queries+2*keys",
        keys * (hidden // heads): "even keys",
        hidden + 2 * keys * (hidden // heads): "hidden+2*even keys",
        dim: "dim",
        hidden // heads: "even dim",
    }


def structure(model_type: str) -> Json | None:
    """The parameters that a model of this type always has; None where they cannot be told."""
    config = small(model_type)
    model = built(config)
    known = symbols()
    shapes = parameters(model, known)
    for variant in variants(model_type, config):
        other = parameters(variant, known)
        shapes = {
            name: [a if a == b else None for a, b in zip(shape, other[name], strict=True)]
            for name, shape in shapes.items()
            if name in other and len(other[name]) == len(shape)
        }
    files = saved(model, config)
    shapes = {name: shape for name, shape in shapes.items() if name in files and not CONVERTED.search(name)}
    return arranged(model, shapes, config)


def saved(model: Any, config: Any) -> set[str]:
    """The names under which a model saves its parameters: some are renamed."""
    if sum(value.numel() for value in model.parameters()) > MAX_PARAMETERS:
        return set()
    with tempfile.TemporaryDirectory() as directory:
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
        with safe_open(Path(directory) / "model.safetensors", framework="pt") as file:
            return set(file.keys())


def variants(model_type: str, config: Any) -> Iterator[Any]:
    """The models of each flag of the configuration turned over, as far as they can be built."""
    own = config.to_dict().keys() - PreTrainedConfig().to_dict().keys() - NOT_FLIPPED
    for flag in sorted(own):
        if isinstance(getattr(config, flag, None), bool):
            with contextlib.suppress(Exception):  # whatever transformers has against this combination
                yield built(small(model_type, **{flag: not getattr(config, flag)}))


def parameters(model: Any, known: dict[int, str]) -> Json:
    """The shape of each parameter, in symbols; a number that has none is None. A tied head is none."""
    return {name: [known.get(size) for size in value.shape] for name, value in model.named_parameters()}


def arranged(model: Any, shapes: Json, config: Any) -> Json | None:
    """The structure as the table has it; None where the layers are not all alike."""
    embedding, head = name_of(model, model.get_input_embeddings()), name_of(model, model.get_output_embeddings())
    per_layer: dict[int, Json] = {}
    outer, containers = {}, set()
    for name, shape in shapes.items():
        if found := re.fullmatch(r"(.*?\.?)(\d+)\.(.+)", name):
            containers.add(found[1])
            per_layer.setdefault(int(found[2]), {})[found[3]] = shape
        elif name != head:
            outer[name] = shape
    layers = list(per_layer.values())
    if embedding not in outer or len(containers) != 1 or any(item != layers[0] for item in layers):
        return None
    if sorted(per_layer) != list(range(LAYERS)):
        return None
    return {
        "base": model.base_model_prefix,
        "fields": {size: [name, default(config, name)] for size, name in field_names(config.model_type).items()},
        "tied": bool(type(config)().tie_word_embeddings),
        "embedding": embedding,
        "head": head,
        "positions": positions(model, config),
        "outer": outer,
        "layers": containers.pop(),
        "layer": layers[0],
    }


def name_of(model: Any, module: Any) -> str:
    """The name of a module's weight."""
    return next((f"{name}.weight" for name, other in model.named_modules() if other is module), "")


def default(config: Any, name: str) -> int | None:
    """What counts where config.json lacks a size; None where it follows from the others."""
    cls, names = type(config), field_names(config.model_type)
    others = ("hidden_size", "num_attention_heads")
    value = getattr(cls(), name, None)
    try:
        other = cls(**{names[size]: SIZES[size] for size in others if size in names and names[size] != name})
    except Exception:
        return None
    return value if isinstance(value, int) and getattr(other, name, None) == value else None


def positions(model: Any, config: Any) -> Json | None:
    """The learned position embedding, and how many of its rows are no positions."""
    count = SIZES["max_position_embeddings"]
    if "max_position_embeddings" not in field_names(config.model_type):
        return None
    for name, module in model.named_modules():
        learned = isinstance(module, torch.nn.Embedding) and re.search(r"pos|wpe", name)
        if learned and count <= module.num_embeddings <= count + 4:
            return {"name": f"{name}.weight", "extra": module.num_embeddings - count}
    return None


def update(structures: Json, model_type: str) -> None:
    """Makes the structure of a model type anew."""
    structures.pop(model_type, None)
    try:
        made = structure(model_type)
    except Exception as error:
        sys.stderr.write(f"{model_type}: {type(error).__name__}: {str(error)[:100]}\n")
        return
    if made is not None:
        structures[model_type] = made


def main(model_types: list[str]) -> None:
    """Updates the table for all model types, or for those that are given."""
    transformers.logging.set_verbosity_error()
    table = {"transformers": transformers.__version__, "kinds": kinds(), "structures": {}}
    decoders = [name for name, kind in table["kinds"].items() if kind == "decoder"]
    if model_types:
        table["structures"] = json.loads(TABLE.read_text())["structures"]
    for model_type in model_types or decoders:
        update(table["structures"], model_type)
        TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{len(table['kinds'])} model types, the structure of {len(table['structures'])}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
