"""Names of fields that mean something beside the question and the answer, and names that do not matter."""

from typing import Final

SYSTEMS: Final = ("system", "system_prompt", "system_message")
REASONING: Final = ("reasoning_content", "reasoning", "thinking")
WEIGHT: Final = "weight"
WEIGHTS: Final = (WEIGHT, "loss", "train", "training", "trainable")
PROMPTS: Final = ("prompt", "question", "instruction", "input", "query")
COMPLETIONS: Final = ("completion", "answer", "response", "output")

_HARMLESS: Final = """
id _id idx index row_id uuid guid hash key uid qid question_id prompt_id message_id conversation_id chat_id thread_id
source src origin dataset dataset_name subset split category categories topic subject tag tags type task task_type
lang language locale license licence author url created created_at updated_at timestamp date time model model_name
generator score scores quality rating difficulty metadata meta title comment comments note notes version num_turns
n_turns turns_count token_count num_tokens length __index_level_0__
"""
HARMLESS: Final = frozenset(_HARMLESS.split())
"""Fields about a row that are no part of what is asked or answered: reports do not name them."""

_OTHER_ANSWER: Final = "the row has an answer already: keep one of the two"
_OTHER_QUESTION: Final = "the row has a question already: keep one of the two"
_PREFERENCE: Final = "pairs of answers have both chosen and rejected, and a prompt: add what is missing"
_MEDIA: Final = "only text is trained"
_PASSAGES: Final = "write it into the field context, if the format has one, or into the question"
_THOUGHT: Final = "name it reasoning_content"

MEANINGFUL: Final[dict[str, str]] = {
    **dict.fromkeys(SYSTEMS, "the system text stands somewhere else already: keep one of the two"),
    **dict.fromkeys(PROMPTS, _OTHER_QUESTION),
    **dict.fromkeys((*COMPLETIONS, "target", "targets", "label_text"), _OTHER_ANSWER),
    **dict.fromkeys(("chosen", "rejected"), _PREFERENCE),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios", "image_url"), _MEDIA),
    **dict.fromkeys(("context", "contexts", "document", "documents", "passage", "passages", "knowledge"), _PASSAGES),
    **dict.fromkeys(("thought", "thoughts", "rationale", "cot", "chain_of_thought", "scratchpad"), _THOUGHT),
    **dict.fromkeys(REASONING, "the row has a thought already, or only an answer can have one"),
    **dict.fromkeys(("choices", "options"), "write them into the question"),
    **dict.fromkeys(("tools", "functions"), "the functions stand somewhere else already: keep one of the two"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id"), "only the assistant calls functions"),
    WEIGHT: "only single messages can be left out of training (weight: 0)",
    "history": "earlier turns belong into messages",
    "messages": "the row has a question and an answer already: keep one of the two",
    "conversations": "the row has a question and an answer already: keep one of the two",
    "refusal": "write it as content, or remove it",
    "prefix": "write it into the content",
    "suffix": "write it into the content",
    "persona": "write it into the system text",
    "examples": "write them into the question",
    "few_shot": "write them into the question",
}
"""Fields that change what is asked or answered, with what to do where a format has no place for them."""
