"""Drops rows with an answer that only holds the place of one, in English and Korean (dataset.clean.placeholders)."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.texts import answers

REASON: Final = "placeholderAnswer"
EMPTY: Final = "emptyAnswer"
LONGEST: Final = 120

# Whole answers, whatever stands around them.
PLACEHOLDER: Final = re.compile(
    r"""
    todo | to\ do | tb[dacw] | wip | fixme | xxx+ | n/?a | n\.a | \#n/a | not\ (?:applicable|available) | null | nan
    | undefined | empty | blank | placeholder | dummy | sample\ text | lorem\ ipsum | asdf+ | qwerty | foo\ ?bar
    | no\ (?:answer|response|content|data) | (?:insert\ |your\ )?answer\ (?:goes\ )?here | insert\ answer | your\ answer
    | to\ be\ (?:determined|done|added|written|confirmed|announced|completed|filled\ in)
    | coming\ soon | work\ in\ progress | under\ construction | will\ be\ added\ later | fill\ (?:me|this)\ in
    | 해당\ ?(?:사항\ ?)?없음 | (?:답변|내용|응답)\ ?없음 | 무응답 | 미정 | 미작성 | 작성\ ?(?:예정|중|필요)
    | (?:추후|나중에)\ ?(?:작성|추가|업데이트|기재|입력)(?:\ ?예정)? | (?:답변\ ?|내용\ ?)?준비\ ?중
    | (?:답변|내용)\ ?(?:예정|작성\ ?중|입력) | 할\ ?일 | 임시 | 테스트 | ㅁㄴㅇㄹ+
    | (?:여기에\ ?)?(?:답변|내용)을?\ ?(?:입력|작성)(?:하세요|해\ ?주세요)?
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Answers that begin so, or that are one slot to be filled.
NOTE: Final = re.compile(
    r"""
    (?:todo|tbd|fixme)\b\s*[:\-(\[].* | lorem\ ipsum\ dolor.*
    | [\[<{(]+\s*(?:insert|your|enter|add|fill|put|write|type|answer|response|content|text|placeholder|todo|tbd|n/a
      |답변|여기|내용|입력|작성)\b[^\]>})]*[\]>})]+
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
AROUND: Final = " \t\r\n.,;:!?\u2026\"'`*_~-\u2013\u2014\u3002"
POLITE: Final = re.compile("(?:입니다|이에요|예요)$")
BRACKETS: Final = re.compile(r"[\[<{(]+\s*(.*?)\s*[\]>})]+", re.DOTALL)


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    if context.settings.placeholders == "keep":
        yield from rows
        return
    for row in rows:
        found = [(answer, reason) for answer in answers(row.example) if (reason := reason_of(answer))]
        if found:
            context.drop(row, found[0][1], f"the answer is {found[0][0].strip()!r}")
        else:
            yield row


def reason_of(answer: str) -> str:
    """Why the answer is none; empty where it is one."""
    text = answer.strip()
    if not text:
        return EMPTY
    if len(text) > LONGEST and not text[:12].casefold().startswith("lorem ipsum"):
        return ""
    core = text.strip(AROUND)
    inner = BRACKETS.fullmatch(core)
    word = POLITE.sub("", inner[1].strip(AROUND) if inner else core)
    return REASON if not core or PLACEHOLDER.fullmatch(word) or NOTE.fullmatch(text) or NOTE.fullmatch(core) else ""
