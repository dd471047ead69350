"""The model is a causal language model that transformers knows."""

import difflib
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.architectures import known_types, transformers_version
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.runtime.errors import BadInput

ADVICE: Final = "Tune a causal language model for text, such as Qwen3, Llama 3, Mistral, Gemma or Phi."
KINDS: Final = {
    "encoder": "an encoder, which does not write text",
    "seq2seq": "an encoder-decoder model (seq2seq)",
    "multimodal": "a multimodal model",
    "other": "no language model",
}
# The endings of architectures that have another head than that of a language model.
HEADS: Final = {
    "ForSequenceClassification": "a classifier or reward model",
    "ForTokenClassification": "a token classifier",
    "ForQuestionAnswering": "an extractive question answering model",
    "ForMultipleChoice": "a multiple choice model",
    "ForMaskedLM": "an encoder (masked language model)",
    "ForConditionalGeneration": "a multimodal or encoder-decoder model",
    "RewardModel": "a reward model",
}
PARTS: Final = ("vision_config", "audio_config", "vision_tower", "speech_config")


def check(model: BaseModel, training: Training) -> None:
    given = model.config.get("model_type")
    if not isinstance(given, str) or not given:
        raise BadInput(
            reasons.INVALID_MODEL,
            f"{model.file('config.json')} has no model_type",
            "Upload the model's own config.json; transformers chooses the architecture by this field.",
        )
    if model.kind is None:
        raise _unknown(model, given)
    if what := _another_kind(model):
        raise BadInput(reasons.UNSUPPORTED_MODEL, f"The model at {model.uri} is {what}", ADVICE)


def _another_kind(model: BaseModel) -> str | None:
    """What the model is, if that is no causal language model."""
    if model.kind in KINDS:
        return f"{KINDS[model.kind]} (model_type {model.model_type})"
    if model.config.get("is_encoder_decoder") is True:
        return f"{KINDS['seq2seq']} (is_encoder_decoder in config.json)"
    if part := next((part for part in PARTS if model.config.get(part)), None):
        return f"{KINDS['multimodal']} ({part} in config.json)"
    named = (
        (name, words) for name in _architectures(model) for ending, words in HEADS.items() if name.endswith(ending)
    )
    return next((f"{words} ({name})" for name, words in named), None)


def _architectures(model: BaseModel) -> list[str]:
    """The classes that config.json names."""
    given = model.config.get("architectures")
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise BadInput(
            reasons.INVALID_MODEL,
            f"{model.file('config.json')}: architectures is not a list of names",
            'Write for example ["LlamaForCausalLM"], or upload the model\'s own config.json.',
        )
    return given


def _unknown(model: BaseModel, given: str) -> BadInput:
    like = difflib.get_close_matches(given, known_types(), n=3)
    hint = f" (it has {', '.join(like)})" if like else ""
    return BadInput(
        reasons.UNSUPPORTED_MODEL,
        f"{model.file('config.json')}: transformers {transformers_version()} knows no model_type {given!r}{hint}",
        "Correct model_type if it is misspelled; a newer architecture needs a newer trainer image.",
    )
