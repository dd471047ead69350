"""What formats make of a row: the chat, with the system text and the functions that stand beside it."""

from typing import Any, Final

from tuneyard_trainer.data.examples import Chat, Message
from tuneyard_trainer.data.formats.fields import Fields, missing_answer
from tuneyard_trainer.data.formats.turns import THOUGHT, read_tools, read_turns, thought_of
from tuneyard_trainer.data.formats.vocabulary import SYSTEMS

HISTORY: Final = "history"


def read_chat(fields: Fields, name: str) -> Chat:
    """A row whose field `name` is a list of messages.

    Raises:
        RowError: the last message is not the assistant's, or nothing is trained.
    """
    messages = read_turns(fields, name)
    if not messages:
        fields.refuse(f"the field {name} is not a list with messages in it", "Write a list of messages")
    return finished(fields, messages)


def read_exchange(fields: Fields, question: str, context: str | None, answer: str) -> Chat:
    """A row with one question and one answer, and perhaps the turns before them; the arguments name its fields.

    Raises:
        RowError: the question or the answer is empty.
    """
    asked, answered = fields.text(question), fields.answer(answer)
    if not answered.strip():
        missing_answer(fields, f"the field {answer} is missing or empty")
    if not asked.strip():
        fields.refuse(f"the field {question} is missing or empty", f"Add {question}, or remove the row")
    about = fields.text(context) if context else ""
    # The chat template of the model replaces headings such as Alpaca's "### Instruction:".
    asked = f"{asked}\n\n{about}" if about.strip() else asked
    thought = thought_of(fields)
    extra: dict[str, Any] = {} if thought is None else {THOUGHT: thought}
    return finished(fields, [*_history(fields), Message("user", asked), Message("assistant", answered, extra)])


def finished(fields: Fields, messages: list[Message]) -> Chat:
    """The chat with its system text and its functions, if something in it is trained."""
    if messages[-1].role != "assistant":
        missing_answer(fields, f"the last message is the {messages[-1].role}'s, not the assistant's")
    if not any(message.trained for message in messages if message.role == "assistant"):
        missing_answer(fields, "all answers have the weight 0, so nothing is trained")
    system = fields.first(SYSTEMS)
    text = fields.text(system) if system else ""
    if text.strip():
        if messages[0].role == "system" and messages[0].content != text:
            fields.refuse(f"the field {system} and the first message are two system texts", "Keep one of the two")
        if messages[0].role != "system":
            messages.insert(0, Message("system", text))
    return Chat(tuple(messages), read_tools(fields))


def _history(fields: Fields) -> list[Message]:
    """Earlier turns: pairs of a question and an answer, or messages. Their answers are trained too."""
    given = fields.list_of(HISTORY) if HISTORY in fields else []
    if given and isinstance(given[0], dict):
        return read_turns(fields, HISTORY)
    turns: list[Message] = []
    for number, pair in enumerate(given, start=1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            fields.refuse(f"entry {number} of {HISTORY} is no pair of a question and an answer", "Write [[q, a], ...]")
        both = fields.child(dict(zip(("question", "answer"), pair, strict=True)), f"{HISTORY} {number}", HISTORY)
        turns += [Message("user", both.text("question")), Message("assistant", both.answer("answer"))]
        if not turns[-1].content.strip():
            missing_answer(both, "the answer is empty")
    return turns
