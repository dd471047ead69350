"""16 families of chat templates, and what each makes of a chat: a second account of their formats, written by hand.

The templates are in templates/, written after the families' documented formats.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_trainer.data.examples import Message, Messages

Pieces = list[tuple[str, bool]]
"""Text, and whether the model is trained to write it."""
# The marks of DeepSeek are written with a wide bar.
BEGIN, END, ASKS, ANSWERS = (
    f"<\uff5c{name}\uff5c>" for name in ("begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant")
)
TEMPLATES: Final = Path(__file__).parent / "templates"
SMOLLM: Final = "You are a helpful AI assistant named SmolLM"
GRANITE: Final = "Knowledge Cutoff Date: April 2024.\nYou are Granite, developed by IBM."
GPT_OSS: Final = (
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2024-07-26\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)


class Family(NamedTuple):
    """A family of models.

    Attributes:
        pieces: the chat as the template renders it.
        marks: the tokens of its format.
        bos, eos: special tokens of the tokenizer.
        ends: the tokens that end a turn.
        has_system: whether the template takes a system message.
    """

    pieces: Callable[[Messages], Pieces]
    marks: tuple[str, ...]
    bos: str
    eos: str
    ends: tuple[str, ...]
    has_system: bool = True


def split(chat: Messages) -> tuple[str | None, Messages]:
    """The system message, and the others."""
    return (chat[0].content, chat[1:]) if chat[0].role == "system" else (None, chat)


def chatml(
    chat: Messages, default: str | None = None, answer: Callable[[str], str] = str
) -> Iterator[tuple[str, bool]]:
    if default is not None and chat[0].role != "system":
        yield f"<|im_start|>system\n{default}<|im_end|>\n", False
    for message in chat:
        yield f"<|im_start|>{message.role}\n", False
        if message.role == "assistant":
            yield answer(message.content) + "<|im_end|>", True
        else:
            yield message.content + "<|im_end|>", False
        yield "\n", False


def llama2(chat: Messages) -> Iterator[tuple[str, bool]]:
    system, rest = split(chat)
    for number, message in enumerate(rest):
        content = message.content
        if number == 0 and system is not None:
            content = f"<<SYS>>\n{system}\n<</SYS>>\n\n{content}"
        if message.role == "user":
            yield f"<s>[INST] {content.strip()} [/INST]", False
        else:
            yield f" {content.strip()} </s>", True


def llama3(chat: Messages) -> Iterator[tuple[str, bool]]:
    yield "<|begin_of_text|>", False
    for message in chat:
        yield f"<|start_header_id|>{message.role}<|end_header_id|>\n\n", False
        yield message.content.strip() + "<|eot_id|>", message.role == "assistant"


def qwen3(chat: Messages) -> Iterator[tuple[str, bool]]:
    for number, message in enumerate(chat):
        yield f"<|im_start|>{message.role}\n", False
        thought = "<think>\n\n</think>\n\n" if number == len(chat) - 1 else ""
        content = message.content.lstrip("\n") if thought else message.content
        yield f"{thought}{content}<|im_end|>", message.role == "assistant"
        yield "\n", False


def mistral(chat: Messages) -> Iterator[tuple[str, bool]]:
    system, rest = split(chat)
    yield "<s>", False
    for number, message in enumerate(rest):
        if message.role == "user":
            before = f"{system}\n\n" if system is not None and number == len(rest) - 2 else ""
            yield f"[INST] {before}{message.content}[/INST]", False
        else:
            yield f" {message.content.strip()}</s>", True


def gemma(chat: Messages) -> Iterator[tuple[str, bool]]:
    yield "<bos>", False
    for message in chat:
        yield f"<start_of_turn>{'model' if message.role == 'assistant' else 'user'}\n", False
        yield message.content.strip() + "<end_of_turn>", message.role == "assistant"
        yield "\n", False


def phi3(chat: Messages) -> Iterator[tuple[str, bool]]:
    for message in chat:
        yield f"<|{message.role}|>\n", False
        yield f"{message.content}<|end|>", message.role == "assistant"
        yield "\n", False
    yield "<|endoftext|>", False


def zephyr(chat: Messages) -> Iterator[tuple[str, bool]]:
    for message in chat:
        yield f"<|{message.role}|>\n", False
        yield f"{message.content}</s>", message.role == "assistant"
        yield "\n", False


def deepseek(chat: Messages) -> Iterator[tuple[str, bool]]:
    system, rest = split(chat)
    yield f"{BEGIN}{system or ''}", False
    for message in rest:
        if message.role == "user":
            yield f"{ASKS}{message.content}", False
        else:
            yield ANSWERS, False
            yield f"{message.content}{END}", True


def exaone(chat: Messages) -> Iterator[tuple[str, bool]]:
    if chat[0].role != "system":
        yield "[|system|][|endofturn|]\n", False
    for message in chat:
        yield f"[|{message.role}|]", False
        yield message.content + ("" if message.role == "user" else "[|endofturn|]"), message.role == "assistant"
        yield "\n", False


def command_r(chat: Messages) -> Iterator[tuple[str, bool]]:
    names = {"system": "SYSTEM", "user": "USER", "assistant": "CHATBOT"}
    yield "<BOS_TOKEN>", False
    for message in chat:
        content = message.content if message.role == "system" else message.content.strip()
        yield f"<|START_OF_TURN_TOKEN|><|{names[message.role]}_TOKEN|>", False
        yield f"{content}<|END_OF_TURN_TOKEN|>", message.role == "assistant"


def granite(chat: Messages) -> Iterator[tuple[str, bool]]:
    system, rest = split(chat)
    for message in (Message("system", GRANITE if system is None else system), *rest):
        yield f"<|start_of_role|>{message.role}<|end_of_role|>", False
        yield f"{message.content}<|end_of_text|>", message.role == "assistant"
        yield "\n", False


def olmo(chat: Messages) -> Iterator[tuple[str, bool]]:
    yield "<|endoftext|>", False
    for number, message in enumerate(chat):
        yield f"<|{message.role}|>\n", False
        if message.role == "assistant":
            yield f"{message.content}<|endoftext|>", True
            yield "\n" if number < len(chat) - 1 else "", False
        else:
            yield f"{message.content}\n", False


def gpt_oss(chat: Messages) -> Iterator[tuple[str, bool]]:
    system, rest = split(chat)
    yield f"<|start|>system<|message|>{GPT_OSS}<|end|>", False
    if system is not None:
        yield f"<|start|>developer<|message|># Instructions\n\n{system}\n\n<|end|>", False
    for number, message in enumerate(rest):
        if message.role == "user":
            yield f"<|start|>user<|message|>{message.content}<|end|>", False
        else:
            end = "<|return|>" if number == len(rest) - 1 else "<|end|>"
            yield "<|start|>assistant", False
            yield f"<|channel|>final<|message|>{message.content}{end}", True


def family(pieces: Callable[[Messages], Iterator[tuple[str, bool]]], *given: object, **more: bool) -> Family:
    return Family(lambda chat: list(pieces(chat)), *given, **more)  # type: ignore[arg-type]


IM: Final = ("<|im_start|>", "<|im_end|>")
THINK: Final = ("<think>", "</think>")
FAMILIES: Final[dict[str, Family]] = {
    "llama2": family(llama2, ("<s>", "</s>"), "<s>", "</s>", ("</s>",)),
    "llama3": family(
        llama3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|eot_id|>",),
    ),
    "qwen2": family(
        lambda chat: chatml(chat, "You are a helpful assistant."), IM, "<|im_start|>", "<|im_end|>", IM[1:]
    ),
    "qwen3": family(qwen3, (*IM, *THINK), "<|im_start|>", "<|im_end|>", IM[1:]),
    "mistral": family(mistral, ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", ("</s>",)),
    "gemma": family(
        gemma,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>",
        "<eos>",
        ("<end_of_turn>",),
        has_system=False,
    ),
    "phi3": family(
        phi3,
        ("<s>", "<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
        "<s>",
        "<|endoftext|>",
        ("<|end|>",),
    ),
    "chatml": family(chatml, (*IM, "<|endoftext|>"), "<|im_start|>", "<|endoftext|>", IM[1:]),
    "smollm": family(
        lambda chat: chatml(chat, SMOLLM, lambda text: text.lstrip("\n")), IM, "<|im_start|>", "<|im_end|>", IM[1:]
    ),
    "zephyr": family(zephyr, ("<s>", "</s>"), "<s>", "</s>", ("</s>",)),
    "deepseek": family(
        deepseek,
        (BEGIN, END, ASKS, ANSWERS, *THINK),
        BEGIN,
        END,
        (END,),
    ),
    "exaone": family(
        exaone,
        ("[BOS]", "[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]"),
        "[BOS]",
        "[|endofturn|]",
        ("[|endofturn|]",),
    ),
    "command-r": family(
        command_r,
        (
            *("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            *("<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        ),
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        ("<|END_OF_TURN_TOKEN|>",),
    ),
    "granite": family(
        granite,
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        "<|end_of_text|>",
        "<|end_of_text|>",
        ("<|end_of_text|>",),
    ),
    "olmo": family(olmo, ("<|endoftext|>",), "<|endoftext|>", "<|endoftext|>", ("<|endoftext|>",)),
    "gpt-oss": family(
        gpt_oss,
        ("<|startoftext|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"),
        "<|startoftext|>",
        "<|return|>",
        ("<|return|>", "<|end|>"),
    ),
}

WORDS: Final = (
    *(
        "So",
        "Yes.",
        "assistant",
        "user",
        "system",
        "model",
        "Größe",
        "안녕",
        "🚀",
        "def f(x):\n    return x",
        "\tx",
        "a",
        ".",
    ),
    *("INST", "#", "1 + 1 = 2", "end", "(", "<b>", "  ", "\n", "\n\n", "e\u0301", "—", "final"),
)


def random_text(chance: random.Random) -> str:
    """Never blank: some text with white space, code, marks of other scripts, and words that templates use."""
    words = [chance.choice(WORDS) for _ in range(chance.randrange(1, 9))]
    text = chance.choice((" ", "", "\n")).join(words)
    return (
        chance.choice(("", "", "", " ", "\n"))
        + (text if text.strip() else "x")
        + chance.choice(("", "", "", " ", "\n"))
    )


def random_chat(chance: random.Random, *, has_system: bool) -> Messages:
    """One to four questions and answers, in some chats after a system message."""
    messages = [Message("system", random_text(chance).strip())] if has_system and chance.random() < 0.4 else []
    for _ in range(chance.randrange(1, 5)):
        messages += [Message("user", random_text(chance)), Message("assistant", random_text(chance))]
    return tuple(messages)
