"""Drops rows whose answer refuses to answer, in English and Korean (dataset.clean.refusals).

Only how an answer begins is looked at, and only words of assistants about themselves count: "I am sorry, but this item
cannot be returned" is an answer.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.texts import answers

REASON: Final = "refusal"
BEGINNING: Final = 200

_CANNOT: Final = r"""
    (?: \ can(?:no|')?t | \ can\ not | \ won't | \ will\ not
    | (?:\ am|'m)\ (?:unable|not\ able|not\ allowed|not\ programmed|not\ comfortable)(?:\ to)?
    | \ do(?:n't|\ not)\ have\ the\ (?:ability|capability)(?:\ to)? | \ (?:must|have\ to)\ decline(?:\ to)? )
"""
_SERVE: Final = r"""
    (?:help|assist|provid\w+|fulfil\w*|comply|answer|respond|engage|discuss|generat\w+|creat\w+|writ\w+|produc\w+
    |complet\w+|support|do\ that|do\ this|continue|access|browse|participate|offer|give|share|satisfy|process|recommend)
"""
_SORRY: Final = r"""
    (?:(?:(?:i'm|i\ am|we're|we\ are)\ )?(?:(?:very|so|really|deeply)\ )?sorry|(?:i\ |my\ )?apologi[sz]e?s?|apologies
    |my\ apologies|unfortunately|regrettably)
"""
_ACT: Final = "(?:답변|도와|제공|응답|대답|수행|작성|생성|도움|응할)"
REFUSAL: Final = re.compile(
    rf"""
    \bas\ an?\ (?:\w+\ )?(?:ai|artificial\ intelligence|large\ language|language)\b
      (?:[ -](?:language|assistant|model|chatbot|system|based|powered|developed|trained|created)|,|\ i\b)
    | \bas\ a\ (?:large\ )?language\ model\b
    | \bi(?:'m|\ am)\ (?:just\ |only\ |merely\ )?an?
      \ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
    | ^{_SORRY}[,.!]?(?:\ but)?(?:\ however)?,?\ i{_CANNOT}[^.]{{0,40}}\b{_SERVE}
    | ^i{_CANNOT}[^.]{{0,25}}\b{_SERVE}[^.]*\b(?:that|this|your|you|such|it|request|question|content|information)\b
    | ^(?:i'm\ |i\ am\ )?(?:sorry|unable)[,.]?\ (?:but\ )?(?:i\ )?(?:can't|cannot|unable\ to)
      \ (?:do\ that|comply|help|assist)\b
    | (?:ai|인공지능|에이아이|언어)\s?(?:언어\s?)?(?:모델|어시스턴트|비서|챗봇|프로그램)?\s?
      (?:로서|이기\ 때문에|이므로|이라서|라서|이라|입니다|이기에|이어서|여서)
    | ^(?:정말\ |대단히\ )?(?:죄송|미안|유감)\S*[,.]?\s.{{0,60}}{_ACT}.{{0,20}}
      (?:수가?\ ?없|불가능|못\s?합|어렵습|드리지\ 못|않습)
    | ^.{{0,40}}(?:답변|도와|응답|대답|도움|응할)
      \S{{0,4}}\s?(?:드릴|할|해\ ?드릴|줄)?\s?수가?\ ?없(?:습니다|어요|네요|다)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Words of which every refusal has one: most answers need no further look.
HINTS: Final = (
    *("sorry", "apolog", "regret", "unfortunate", "i can", "i won", "i will not", "i am", "i'm", "i do", "i must"),
    *("i have", "unable", "as a", "없", "인공지능", "ai", "언어", "불가", "못", "어렵", "않"),
)


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    if context.settings.refusals == "keep":
        yield from rows
        return
    for row in rows:
        found = next((words for answer in answers(row.example) if (words := refusal_in(answer))), None)
        if found is None:
            yield row
        else:
            context.drop(row, REASON, f"the answer has the words {found!r}")


def refusal_in(answer: str) -> str | None:
    """The words that refuse, where the answer begins with a refusal."""
    beginning = answer.lstrip()[:BEGINNING].replace("\u2019", "'")
    small = beginning.lower()
    if not any(hint in small for hint in HINTS):
        return None
    match = REFUSAL.search(beginning)
    return match[0] if match else None
