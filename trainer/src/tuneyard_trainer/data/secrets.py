"""Keys, tokens and passwords in text: replaced by their kind, so that nothing shows what they were.

The patterns are those of the providers' documentation, as gitleaks has them (https://github.com/gitleaks/gitleaks).
"""

import math
import re
from collections import Counter
from typing import Any, Final

_KEY_END: Final = r"-----END [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----"
_ASSIGNED: Final = r"[\"']?\s{0,3}(?:=>|[:=]|은|는|is)\s{0,3}[\"'`]?"
# By kind. A named group beside it is what is replaced; without one all of it is.
KINDS: Final[dict[str, str]] = {
    "private-key": rf"-----BEGIN [A-Z ]{{0,20}}PRIVATE KEY(?: BLOCK)?-----.*?(?:{_KEY_END}|\Z)",
    "aws-access-key": r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
    "github-token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b",
    "gitlab-token": r"\bgl(?:pat|ptt|dt|rt|cbt|soat|ft|imt|agent)-[\w-]{20,}",
    "slack-token": r"\bxox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}",
    "slack-webhook": r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{20,}",
    "anthropic-key": r"\bsk-ant-[A-Za-z0-9_-]{20,}",
    "openai-key": r"\bsk-(?:proj-|svcacct-|admin-|None-)?(?=[A-Za-z_-]*\d)(?=[^A-Z\s]*[A-Z])[A-Za-z0-9_-]{20,}",
    "huggingface-token": r"\b(?:hf|api_org)_[A-Za-z]{34}\b|\bhf_[A-Za-z0-9]{34,40}\b",
    "google-api-key": r"\bAIza[\w-]{35}(?![\w-])",
    "google-oauth": r"\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{28}\b",
    "stripe-key": r"\b(?:[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{24,})",
    "npm-token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "pypi-token": r"\bpypi-AgE[\w-]{40,}",
    "sendgrid-key": r"\bSG\.[\w-]{20,24}\.[\w-]{39,50}",
    "twilio-key": r"\b(?:SK|AC)[0-9a-f]{32}\b",
    "telegram-token": r"\b\d{8,10}:AA[\w-]{32,33}(?![\w-])",
    "digitalocean-token": r"\bdo[opr]_v1_[a-f0-9]{64}\b",
    "databricks-token": r"\bdapi[a-f0-9]{32}(?:-\d)?\b",
    "vault-token": r"\bhv[sbr]\.[\w-]{24,}",
    "azure-key": r"(?i:AccountKey|SharedAccessKey)=(?P<value>[A-Za-z0-9+/]{40,}={0,2})",
    "jwt": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "url-password": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'<>]{0,64}:(?P<url>[^\s:/@\"'<>${}]{3,128})@",
    "bearer-token": r"\b[Bb]earer\s+(?P<bearer>[A-Za-z0-9._~+/-]{24,}=*)",
    "assigned-key": r"(?i:api[_-]?key|secret[_-]?(?:access[_-]?)?key|access[_-]?(?:key|token)|auth[_-]?token"
    r"|client[_-]?secret|private[_-]?key|refresh[_-]?token|\bsecret|\btoken|인증 ?키|비밀 ?키)"
    rf"{_ASSIGNED}(?P<key>[A-Za-z0-9+/_.~-]{{16,}}={{0,2}})",
    "assigned-password": r"(?i:passw(?:or)?d|passwd|\bpwd|비밀번호|패스워드|암호)"
    rf"{_ASSIGNED}(?P<password>[^\s\"'`,;<>{{}}()\[\]]{{8,64}})",
}
# Those whose value must look as if it were random.
GUESSED: Final = ("url-password", "bearer-token", "assigned-key", "assigned-password")
SECRET: Final = re.compile(
    "|".join(f"(?P<{name.replace('-', '_')}>{pattern})" for name, pattern in KINDS.items()), re.DOTALL
)
_NAMES: Final = {name.replace("-", "_"): name for name in KINDS}
_VALUES: Final = ("value", "url", "bearer", "key", "password")
# What every secret has near it, in small letters: most texts need no further look.
HINTS: Final = (
    *("private key", "akia", "asia", "abia", "acca", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-"),
    *("glptt-", "gldt-", "glrt-", "glcbt-", "glsoat-", "glft-", "glimt-", "glagent-", "xox", "xapp-", "hooks.slack"),
    *(
        "sk-",
        "hf_",
        "api_org_",
        "aiza",
        "ya29",
        "gocspx",
        "sk_",
        "rk_",
        "whsec_",
        "npm_",
        "pypi-",
        "sg.",
        ":aa",
        "_v1_",
    ),
    *("dapi", "hvs.", "hvb.", "hvr.", "eyj", "://", "bearer", "key", "secret", "token", "pass", "pwd", "인증", "비밀"),
    *("패스워드", "암호"),
)
TWILIO: Final = re.compile("SK[0-9a-f]{8}|AC[0-9a-f]{8}")
EXAMPLES: Final = re.compile(
    r"(?i)example|placeholder|your[_-]?|changeme|change[_-]me|dummy|sample|redacted|xxxx|\*{3}|\.\.\.|<|\$\{|\$\(|%\("
)
BITS: Final = 3.0


def without_secrets(text: str) -> str:
    """The text with the kind of each secret in its place, such as [aws-access-key]."""
    return SECRET.sub(_replacement, text) if may_have_secrets(text) else text


def may_have_secrets(text: str) -> bool:
    """Whether a closer look is worth it."""
    small = text.lower()
    return any(hint in small for hint in HINTS) or TWILIO.search(text) is not None


def redacted_row(value: Any) -> Any:
    """A row as it was read, or a part of it, without secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: redacted_row(item) for name, item in value.items()}
    return [redacted_row(item) for item in value] if isinstance(value, (list, tuple)) else value


def _replacement(match: re.Match[str]) -> str:
    found = match.groupdict()
    name = next(_NAMES[group] for group in _NAMES if found[group] is not None)
    value = next((group for group in _VALUES if found[group] is not None), None)
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
