"""Finds data about persons that has a form: addresses of e-mail, numbers (dataset.clean.pii).

Check digits are tested by python-stdnum, phone numbers by phonenumbers. A number whose form says little counts only
where words before it, English or Korean, say what it is. Korean resident numbers given out since October 2020 have no
check digit, so their date of birth is tested instead.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from typing import Final, NamedTuple

import phonenumbers
from stdnum import iban, luhn
from stdnum.kr import brn
from stdnum.us import ssn

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.texts import change_texts

FOUND: Final = "piiFound"
CHANGE: Final = "piiRedacted"
REASON: Final = "pii"
CONTEXT_CHARACTERS: Final = 40
REGIONS: Final = ("KR", "US")
"""Where a number without a country code is from."""


class Kind(NamedTuple):
    """A kind of datum."""

    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool] = lambda text: True
    context: re.Pattern[str] | None = None
    """Words of which one must stand before it."""


def _born(number: str) -> bool:
    """Whether a Korean number begins with a date of birth."""
    digits = re.sub(r"\D", "", number)
    century = {"9": 1800, "0": 1800, "1": 1900, "2": 1900, "5": 1900, "6": 1900}.get(digits[6], 2000)
    try:
        date(century + int(digits[:2]), int(digits[2:4]), int(digits[4:6]))
    except ValueError:
        return False
    return True


def _checked(number: str) -> bool:
    """Whether the check digit of a Korean resident number is right."""
    digits = [int(digit) for digit in re.sub(r"\D", "", number)]
    total = sum(weight * digit for weight, digit in zip((2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), digits, strict=False))
    return _born(number) and (11 - total % 11) % 10 == digits[12]


def _is_card(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn.is_valid(digits)


def _is_phone(number: str) -> bool:
    for region in REGIONS:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(number, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


def words(*names: str) -> re.Pattern[str]:
    return re.compile("|".join(names), re.IGNORECASE)


_RESIDENT: Final = words("주민", "외국인 ?등록", "등록 ?번호", "rrn", "resident registration", "생년월일")
KINDS: Final[dict[str, Kind]] = {
    "EMAIL": Kind(
        re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.)+[A-Za-z]{2,24}(?![\w-])")
    ),
    "IBAN": Kind(re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), iban.is_valid),
    "KR_RRN": Kind(re.compile(r"(?<![\d-])\d{6} ?- ?[0-9]\d{6}(?![\d-])"), _born),
    "KR_RRN_PLAIN": Kind(re.compile(r"(?<![\d-])\d{6}[0-9]\d{6}(?![\d-])"), _checked),
    "KR_RRN_NAMED": Kind(re.compile(r"(?<![\d-])\d{6}[0-9]\d{6}(?![\d-])"), _born, _RESIDENT),
    "CREDIT_CARD": Kind(re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d-])"), _is_card),
    "US_SSN": Kind(re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"), ssn.is_valid),
    "KR_BRN": Kind(re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{5}(?![\d-])"), brn.is_valid),
    "KR_DRIVER_LICENSE": Kind(
        re.compile(r"(?<![\d-])(?:1[1-9]|2[0-8])-\d{2}-\d{6}-\d{2}(?![\d-])"),
    ),
    "KR_PASSPORT": Kind(
        re.compile(r"(?<![A-Za-z0-9])[MSRODG](?:\d{8}|\d{3}[A-Z]\d{4})(?![A-Za-z0-9])"),
        context=words("여권", "passport"),
    ),
    "KR_ACCOUNT": Kind(
        re.compile(r"(?<![\d-])\d{2,6}-\d{2,6}-\d{2,7}(?:-\d{1,6})?(?![\d-])"),
        context=words("계좌", "예금주", "은행", "account ?n"),
    ),
    "PHONE": Kind(
        re.compile(
            r"(?<![\w.+/-])(?:\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
            r"|01[016-9][ .-]?\d{3,4}[ .-]?\d{4}|0(?:2|[3-7]\d)[ )-]{1,2}\d{3,4}-\d{4}"
            r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|[2-9]\d{2}[.-]\d{3}[.-]\d{4})(?![\w-])"
        ),
        _is_phone,
    ),
}
# What every datum has: most texts need no further look. Patterns that begin with a single character are searched fast.
HINTS: Final = tuple(map(re.compile, (r"\d[\d .()-]{5,}\d", r"[A-Z][A-Z]\d\d ?[A-Z]{4}", r"[MSRODG]\d{3}[A-Z]\d{4}")))
ADDRESS: Final = re.compile(r"@\w")
DIGIT: Final = re.compile(r"\d")


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    policy = context.settings.pii
    if policy == "keep":
        yield from rows
        return
    for row in rows:
        example = change_texts(row.example, without_pii, _may_have)
        if example is row.example:
            yield row
        elif policy == "report":
            context.change(row, example, FOUND, hide=True)
            yield row
        else:
            redacted = context.change(row, example, CHANGE if policy == "redact" else FOUND, hide=True)
            if policy == "redact":
                yield redacted
            else:
                context.drop(redacted, REASON, "written here without the data")


def _may_have(text: str) -> bool:
    """Whether a closer look is worth it."""
    if "@" in text and ADDRESS.search(text):
        return True
    return DIGIT.search(text) is not None and any(hint.search(text) for hint in HINTS)


def without_pii(text: str) -> str:
    """The text with the kind of each datum in its place, such as [EMAIL]."""
    if not _may_have(text):
        return text
    for name, kind in KINDS.items():
        text = kind.pattern.sub(partial(_replacement, name, kind), text)
    return text


def _replacement(name: str, kind: Kind, match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - CONTEXT_CHARACTERS) : match.start()]
    if (kind.context and not kind.context.search(before)) or not kind.is_valid(match[0]):
        return match[0]
    return f"[{name.removesuffix('_PLAIN').removesuffix('_NAMED')}]"
