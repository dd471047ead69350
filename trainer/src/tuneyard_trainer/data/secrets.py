"""Keys, tokens and passwords in text: replaced by their kind, so that nothing shows what they were.

The patterns are those of the providers' documentation, as gitleaks has them (https://github.com/gitleaks/gitleaks).
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

from tuneyard_api.kinds.dataset import Cleaning

_KEY_END: Final = r"-----END [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----"
_ASSIGNED: Final = r"[\"']?\s{0,3}(?:=>|[:=]|은|는|is)\s{0,3}[\"'`]?"


class Kind(NamedTuple):
    """A kind of secret."""

    pattern: str
    """A named group in it is what is replaced; without one all of it is."""
    hints: tuple[str, ...]
    """One of these, in small letters, stands in every text with such a secret."""


KINDS: Final[dict[str, Kind]] = {
    "private-key": Kind(rf"-----BEGIN [A-Z ]{{0,20}}PRIVATE KEY(?: BLOCK)?-----.*?(?:{_KEY_END}|\Z)", ("private key",)),
    "aws-access-key": Kind(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b", ("akia", "asia", "abia", "acca")),
    "github-token": Kind(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    "gitlab-token": Kind(
        r"\bgl(?:pat|ptt|dt|rt|cbt|soat|ft|imt|agent)-[\w-]{20,}",
        ("glpat-", "glptt-", "gldt-", "glrt-", "glcbt-", "glsoat-", "glft-", "glimt-", "glagent-"),
    ),
    "slack-token": Kind(
        r"\bxox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}", ("xox", "xapp-")
    ),
    "slack-webhook": Kind(
        r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{20,}", ("hooks.slack",)
    ),
    "anthropic-key": Kind(r"\bsk-ant-[A-Za-z0-9_-]{20,}", ("sk-ant-",)),
    "openai-key": Kind(
        r"\bsk-(?:proj-|svcacct-|admin-|None-)?(?=[A-Za-z_-]*\d)(?=[^A-Z\s]*[A-Z])[A-Za-z0-9_-]{20,}", ("sk-",)
    ),
    "huggingface-token": Kind(r"\b(?:hf|api_org)_[A-Za-z]{34}\b|\bhf_[A-Za-z0-9]{34,40}\b", ("hf_", "api_org_")),
    "google-api-key": Kind(r"\bAIza[\w-]{35}(?![\w-])", ("aiza",)),
    "google-oauth": Kind(r"\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{28}\b", ("ya29", "gocspx")),
    "stripe-key": Kind(
        r"\b(?:[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{24,})", ("sk_", "rk_", "whsec_")
    ),
    "npm-token": Kind(r"\bnpm_[A-Za-z0-9]{36}\b", ("npm_",)),
    "pypi-token": Kind(r"\bpypi-AgE[\w-]{40,}", ("pypi-",)),
    "sendgrid-key": Kind(r"\bSG\.[\w-]{20,24}\.[\w-]{39,50}", ("sg.",)),
    "twilio-key": Kind(r"\b(?:SK|AC)[0-9a-f]{32}\b", ()),  # see TWILIO
    "telegram-token": Kind(r"\b\d{8,10}:AA[\w-]{32,33}(?![\w-])", (":aa",)),
    "digitalocean-token": Kind(r"\bdo[opr]_v1_[a-f0-9]{64}\b", ("_v1_",)),
    "databricks-token": Kind(r"\bdapi[a-f0-9]{32}(?:-\d)?\b", ("dapi",)),
    "vault-token": Kind(r"\bhv[sbr]\.[\w-]{24,}", ("hvs.", "hvb.", "hvr.")),
    "azure-key": Kind(
        r"(?i:AccountKey|SharedAccessKey)=(?P<value>[A-Za-z0-9+/]{40,}={0,2})", ("accountkey", "sharedaccesskey")
    ),
    "jwt": Kind(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}", ("eyj",)),
    "url-password": Kind(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'<>]{0,64}:(?P<url>[^\s:/@\"'<>${}]{3,128})@", ("://",)),
    "bearer-token": Kind(r"\b[Bb]earer\s+(?P<bearer>[A-Za-z0-9._~+/-]{24,}=*)", ("bearer",)),
    "assigned-key": Kind(
        r"(?i:api[_-]?key|secret[_-]?(?:access[_-]?)?key|access[_-]?(?:key|token)|auth[_-]?token"
        r"|client[_-]?secret|private[_-]?key|refresh[_-]?token|\bsecret|\btoken|인증 ?키|비밀 ?키)"
        rf"{_ASSIGNED}(?P<key>[A-Za-z0-9+/_.~-]{{16,}}={{0,2}})",
        ("key", "secret", "token", "인증", "비밀"),
    ),
    "assigned-password": Kind(
        r"(?i:passw(?:or)?d|passwd|\bpwd|비밀번호|패스워드|암호)"
        rf"{_ASSIGNED}(?P<password>[^\s\"'`,;<>{{}}()\[\]]{{8,64}})",
        ("pass", "pwd", "비밀", "패스워드", "암호"),
    ),
}
# Those whose value must look as if it were random.
GUESSED: Final = ("url-password", "bearer-token", "assigned-key", "assigned-password")
# Of these the value is one long word. Texts often speak of keys and tokens without such a word.
LONG_GUESSED: Final = frozenset({"bearer-token", "assigned-key"})
LONG: Final = re.compile(r"[A-Za-z0-9+/_.~-]{16,}")
DIGIT: Final = re.compile(r"\d")
_VALUES: Final = ("value", "url", "bearer", "key", "password")
# What several hints have in common. A text without it needs no look for them; without anything but ASCII, none for the
# Korean ones.
_MARKS: Final = ("_", "gl", "key", "-", ".", ":", "")
TWILIO: Final = re.compile("SK[0-9a-f]{8}|AC[0-9a-f]{8}")
TWILIO_BEGINS: Final = ("SK", "AC")
EXAMPLES: Final = re.compile(
    r"(?i)example|placeholder|your[_-]?|changeme|change[_-]me|dummy|sample|redacted|xxxx|\*{3}|\.\.\.|<|\$\{|\$\(|%\("
)
BITS: Final = 3.0


def without_secrets(text: str) -> str:
    """The text with the kind of each secret in its place, such as [aws-access-key]."""
    kinds = _hinted(text)
    return _pattern(kinds).sub(_replacement, text) if kinds else text


def may_have_secrets(text: str) -> bool:
    """Whether a closer look is worth it."""
    return bool(_hinted(text))


def _hinted(text: str) -> frozenset[str]:
    """The kinds of secrets that may be in a text."""
    small = text.lower()
    marked = [hints for mark, hints in _hints(is_ascii=small.isascii()).items() if mark in small]
    kinds = frozenset([name for hints in marked for hint, name in hints if hint in small])
    if any(begin in text for begin in TWILIO_BEGINS) and TWILIO.search(text):
        kinds |= {"twilio-key"}
    if kinds and kinds <= LONG_GUESSED and not any(map(DIGIT.search, LONG.findall(text))):
        return frozenset()
    return kinds


@cache
def _hints(*, is_ascii: bool) -> dict[str, list[tuple[str, str]]]:
    """Each hint that may be in such a text, with its kind, by the mark that it has."""
    found: dict[str, list[tuple[str, str]]] = {mark: [] for mark in _MARKS}
    for name, kind in KINDS.items():
        for hint in kind.hints:
            if hint.isascii() or not is_ascii:
                found[next(mark for mark in _MARKS if mark in hint)].append((hint, name))
    return found


@cache
def _pattern(kinds: frozenset[str]) -> re.Pattern[str]:
    """Some kinds in the order of KINDS: where two begin at one place, the earlier one counts."""
    groups = (f"(?P<{_group(name)}>{kind.pattern})" for name, kind in KINDS.items() if name in kinds)
    return re.compile("|".join(groups), re.DOTALL)


def _group(name: str) -> str:
    return name.replace("-", "_")


def redacted_row(value: Any) -> Any:
    """A row as it was read, or a part of it, without secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: redacted_row(item) for name, item in value.items()}
    return [redacted_row(item) for item in value] if isinstance(value, (list, tuple)) else value


def _replacement(match: re.Match[str]) -> str:
    found = match.groupdict()
    name = next(name for name in KINDS if found.get(_group(name)) is not None)
    value = next((group for group in _VALUES if found.get(group) is not None), None)
    if value is None:
        return f"[{name}]"
    if name in GUESSED and not _is_random(found[value], name):
        return match[0]
    begin, end = match.start(value) - match.start(), match.end(value) - match.start()
    return f"{match[0][:begin]}[{name}]{match[0][end:]}"


def _is_random(value: str, name: str) -> bool:
    """Whether a value is more than a word, a name or an example of one."""
    if EXAMPLES.search(value):
        return False
    classes = [re.search(kind, value) for kind in ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9]")]
    if name in ("assigned-password", "url-password"):
        return classes[2] is not None and sum(map(bool, classes)) >= 2
    has_letters = classes[0] is not None or classes[1] is not None
    return (
        has_letters and classes[2] is not None and _entropy(value) >= BITS and not re.fullmatch(r"[a-z.-]+\d*", value)
    )


def _entropy(text: str) -> float:
    """Shannon's entropy, in bits per character."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def redaction(settings: Cleaning) -> Callable[[Any], Any]:
    """What takes out of a row, before it is written down, what must not be."""
    return redacted_row if settings.secrets != "keep" else _unchanged


def _unchanged(row: Any) -> Any:
    return row
