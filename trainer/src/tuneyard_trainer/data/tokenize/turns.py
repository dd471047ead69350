"""Where the assistant's turns are in a rendered chat, and which tokens end them.

A turn begins where the generation prompt ends, because the model is asked with that prompt. It ends with the first
end-of-turn token after its content. What a template adds to the beginning or the end of a chat plays no part in this.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from jinja2 import TemplateError

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import Message
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize.marks import Places, locate
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.runtime.errors import BadInput

# Reasons why an answer is not trained. The report and the status show them.
NOT_SHOWN: Final = "notShown"
"""The template leaves the answer out, or changes it."""
ASKED_DIFFERENTLY: Final = "askedDifferently"
"""The template shows the answer elsewhere than behind its generation prompt."""

SYSTEM, USER, ANSWER = Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "So.")
# A mark at the end of an opening, such as <think>, that does not say who speaks.
LAST_MARK: Final = re.compile(r"(?:<[^<>]*>|\[[^\[\]]*\])\s*$")
ROLE: Final = re.compile("assistant|model|bot|user|system|gpt", re.IGNORECASE)


class Turn(NamedTuple):
    """An assistant's turn in a rendered chat, in characters."""

    begin: int
    """Where the generation prompt ends."""
    end: int
    """Where the content ends; its end-of-turn token comes later."""
    limit: int
    """Where the next message's content begins, or the end of the text."""


@dataclass(frozen=True)
class TurnFormat:
    """How a template opens and ends the assistant's turns."""

    prompt: str
    """What follows a user's content when the model is asked for an answer."""
    header: str
    """The part of it that add_generation_prompt adds; empty where the template ignores that."""
    last_end: int
    """The token that ends a turn at the end of a chat."""
    ends: frozenset[int]
    """All tokens that end a turn: some templates end earlier turns with another one."""

    def find(self, places: Places, messages: Sequence[Message], number: int) -> Turn | str:
        """The assistant's turn of a message, or why it cannot be trained."""
        end = places.ends.get(number)
        if end is None and messages[number].content.strip():
            return NOT_SHOWN
        before = _content_before(places, number)
        after = _content_after(places, number, len(messages), before)
        content = places.begins.get(number)
        upto = content if content is not None else after if end is None else end
        after_user = number > 0 and messages[number - 1].role == "user" and number - 1 in places.ends
        prompt = self.prompt if after_user else ""
        begin = _turn_begin(places.text[before:upto], prompt, self.header, ends_at_content=content is not None)
        if begin is None:
            return ASKED_DIFFERENTLY
        return Turn(before + begin, before + begin if end is None else end, after)


@lru_cache(256)  # it is the same in nearly all rows
def _turn_begin(between: str, prompt: str, header: str, *, ends_at_content: bool) -> int | None:
    """Where a turn begins in what stands between the content before it and its own.

    Args:
        prompt: what follows a user's content; empty where the content before is not the user's.
        header: see TurnFormat.
    """
    blank = len(between) - len(between.lstrip())  # white space at the end of the user's content
    at_once = _behind(between, prompt.lstrip(), lambda part: blank if between.startswith(part, blank) else -1)
    if at_once:
        return at_once
    if header.strip():
        return _behind(between, header, between.rfind if ends_at_content else between.find)
    return len(between) if ends_at_content else None


def _content_before(places: Places, number: int) -> int:
    """Where the nearest content before a message ends; 0 where there is none."""
    return next((places.ends[item] for item in range(number - 1, -1, -1) if item in places.ends), 0)


def _content_after(places: Places, number: int, count: int, before: int) -> int:
    """Where the nearest content after a message begins, or the end of the text."""
    here = places.ends.get(number, before)
    begins = (places.begins.get(item, places.ends.get(item, -1)) for item in range(number + 1, count))
    return next((begin for begin in begins if begin >= here), len(places.text))


def _behind(text: str, opening: str, find: Callable[[str], int]) -> int | None:
    """Where in `text` the opening of a turn ends; None where it is not there.

    An opening may go on with marks that a chat shows only in some turns, such as the beginning of a thought: the
    longest part without such marks that is found counts, and white space at its end does not matter.
    """
    for part in _without_marks(opening):
        begin = find(part.rstrip())
        if begin < 0:
            continue
        shared = len(os.path.commonprefix([text[begin:], part]))
        rest = text[begin + shared :]
        return begin + shared + (0 if shared == len(part) else len(rest) - len(rest.lstrip()))
    return None


def _without_marks(opening: str) -> Iterator[str]:
    """The opening, and what is left of it when the marks at its end are taken away, one after another."""
    while re.search(r"\w", opening):
        yield opening
        mark = LAST_MARK.search(opening)
        if mark is None or ROLE.search(mark[0]):
            return
        opening = opening[: mark.start()]


def find_format(template: ChatTemplate, tokenizer: ModelTokenizer, where: str) -> TurnFormat:
    """How a template opens and ends turns, as short chats show it.

    Args:
        where: how messages name the template.

    Raises:
        BadInput: it cannot be rendered, never ends a turn with a token, or shows answers elsewhere than behind its
            generation prompt.
    """
    probe = _Probe(template, tokenizer, ())
    try:
        answered = locate(template, [USER, ANSWER])
    except TemplateError as error:
        probe = _Probe(template, tokenizer, (SYSTEM,))  # some templates want a system message
        with_system = probe.places(USER, ANSWER)
        if with_system is None:
            advice = "Correct the Jinja template in model.chatTemplate."
            raise BadInput(reasons.INVALID_SPEC, f"{where} cannot be rendered: {error}", advice) from error
        answered = with_system
    last_end, ends = probe.ends(answered)
    if last_end is None:
        raise _never_ends(answered, probe, where)
    prompt, unasked = probe.after_question(add_generation_prompt=True), probe.after_question()
    form = TurnFormat(prompt, prompt[len(_common_beginning(prompt, unasked)) :], last_end, ends)
    if isinstance(form.find(answered, [*probe.system, USER, ANSWER], probe.answer), str):
        raise BadInput(
            reasons.INVALID_SPEC,
            f"{where} shows the answer differently than it asks for it, so it cannot be trained",
            "Set model.chatTemplate to one whose generation prompt is the beginning of the assistant's turn.",
        )
    return form


@dataclass(frozen=True)
class _Probe:
    """Short chats, rendered with a template."""

    template: ChatTemplate
    tokenizer: ModelTokenizer
    system: tuple[Message, ...]
    """What each chat begins with."""

    @property
    def answer(self) -> int:
        """The number of the first answer in a chat."""
        return len(self.system) + 1

    def places(self, *messages: Message, add_generation_prompt: bool = False) -> Places | None:
        """None where the template refuses such a chat."""
        try:
            return locate(self.template, [*self.system, *messages], add_generation_prompt=add_generation_prompt)
        except TemplateError:
            return None

    def after_question(self, *, add_generation_prompt: bool = False) -> str:
        """What follows the content of a chat that ends with the user."""
        places = self.places(USER, add_generation_prompt=add_generation_prompt)
        return "" if places is None else places.text[places.ends.get(len(self.system), len(places.text)) :]

    def ends(self, answered: Places) -> tuple[int | None, frozenset[int]]:
        """The token that ends the last turn of a chat (None: there is none), and all that end a turn.

        The first added token after a content ends the turn, or opens what comes next. It ends the turn if it is the
        same whatever comes next, the end of the chat, a generation prompt or a question, and if no chat begins with it.
        Where EOS is among the tokens that always follow, it is EOS, not one before it that ends a part of the answer.
        """
        tail = self._tokens_after_answer(answered)
        if not tail:
            return None, frozenset()
        asked = self._tokens_after_answer(self.places(USER, ANSWER, add_generation_prompt=True))
        followed = self._tokens_after_answer(self.places(USER, ANSWER, USER, ANSWER))
        eos, opening = self._eos(), self._opening(answered)
        if eos is not None and eos in os.path.commonprefix([tail, followed]):
            return eos, frozenset({eos})
        last = tail[0]
        ends_earlier_turns = bool(followed) and followed[0] != opening and followed[0] in (*asked[:1], last)
        ends_last_turn = last == eos or (last != opening and (not followed or ends_earlier_turns))
        if not ends_last_turn:
            return None, frozenset()
        return last, frozenset({last, followed[0]} if ends_earlier_turns else {last})

    def _tokens_after_answer(self, places: Places | None) -> list[int]:
        """The added tokens between the first answer and the content that follows it."""
        end = places.ends.get(self.answer) if places else None
        if places is None or end is None:
            return []
        (encoding,) = self.tokenizer.encode([places.text])
        limit = _content_after(places, self.answer, self.answer + 2, end)
        tokens, added = zip(encoding.ids, encoding.offsets, strict=True), self.tokenizer.added_tokens
        return [token for token, (begin, _) in tokens if end <= begin < limit and token in added]

    def _eos(self) -> int | None:
        eos = self.tokenizer.special_tokens.get("eos_token")
        return next((token for token, text in self.tokenizer.added_tokens.items() if text == eos), None)

    def _opening(self, places: Places) -> int | None:
        """The first added token before the first content, but for the beginning of the text (BOS)."""
        (encoding,) = self.tokenizer.encode([places.text[: places.begins.get(0, 0)]])
        added, bos = self.tokenizer.added_tokens, self.tokenizer.special_tokens.get("bos_token")
        return next((token for token in encoding.ids if token in added and added[token] != bos), None)


def _common_beginning(one: str, other: str) -> str:
    """Without the first half of a mark."""
    common = os.path.commonprefix([one, other])
    return common if common in (one, other) else re.sub(r"[<\[][^<>\[\]]*$", "", common)


def _never_ends(answered: Places, probe: _Probe, where: str) -> BadInput:
    if probe.answer not in answered.ends:
        return BadInput(
            reasons.INVALID_SPEC,
            f"{where} does not show the assistant's answer",
            "Set model.chatTemplate to one that shows the content of every message, which is a string.",
        )
    tail = answered.text[answered.ends[probe.answer] :].strip()
    what = f"ends the assistant's turn with {tail!r}, which is no end-of-turn token" if tail else "never ends a turn"
    known = ", ".join(dict.fromkeys(probe.tokenizer.special_tokens.values())) or "none with a name"
    return BadInput(
        reasons.NO_END_OF_TURN,
        f"{where} {what}, so the tuned model would never stop",
        "Set model.chatTemplate to one that ends the assistant's turns with {{ eos_token }} or another special token "
        f"of the model's tokenizer, which has {known}.",
    )
