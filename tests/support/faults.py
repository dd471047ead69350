"""Rows with faults of every kind planted, from a seed: which line has which fault is known."""

import random
import string
from collections.abc import Callable
from typing import Any, Final

Row = dict[str, str]


def listed(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


NOUNS: Final = listed(
    "cluster node volume ledger garden bridge ticket invoice engine valley harbor letter museum recipe signal tunnel "
    "planet canvas border forest mirror pencil island hammer blanket orchard turbine archive violin kettle sensor lake"
)
VERBS: Final = listed(
    "opens moves stores checks carries paints cleans repairs counts measures follows replaces protects delivers sorts "
    "warms cools lifts folds records watches drains loads signs trims maps tests feeds wraps tunes seals"
)
OTHERS: Final = listed(
    "slowly quickly daily often rarely gently twice again early late inside outside nearby upstream downstream "
    "together alone carefully loudly quietly first last heavy bright narrow wide green silver wooden ancient modern"
)
KOREAN: Final = listed(
    "노드가 파드를 서비스는 클러스터에서 볼륨을 이미지를 기록을 설정을 시간에 사용자가 관리자는 요청을 "
    "저장소에 빠르게 천천히 다시 확인하고 저장하며 배포한 뒤 삭제하고 복구하며 연결해서 나누어 모아서 "
    "바꾸어 아침에 저녁에 학교에서 회사에서 바다를 산에서 강을 먼저 나중에 따라 편지를 읽고 쓰며"
)
FRENCH: Final = listed(
    "le jardin est derrière la maison et les enfants jouent dans la cour avec leurs amis pendant que nous préparons "
    "le repas du soir pour toute la famille qui arrive demain matin de la grande ville où elle habite depuis longtemps"
)
PLACEHOLDERS: Final = listed(
    "TODO|N/A|tbd|To be determined.|[insert answer here]|...|null|Lorem ipsum dolor sit amet, consectetur|<your answer>"
    "|TODO: write this|Coming soon!|placeholder|추후 작성 예정|해당 없음|답변 준비 중입니다.|[답변 입력]|미정|-",
    "|",
)
REFUSALS: Final = (
    "As an AI language model, I cannot {}.",
    "I'm sorry, but I can't assist with that request.",
    "I\u2019m sorry, but as an AI I do not have opinions on {}.",
    "I am just an AI and do not know {}.",
    "Unfortunately, I am unable to provide information about {}.",
    "I cannot help with that.",
    "Sorry, I can't help you with {}.",
    "죄송하지만 AI 언어 모델로서 {}에 대해 말할 수 없습니다.",
    "죄송합니다. 해당 질문에는 답변해 드릴 수 없습니다.",
    "저는 인공지능이기 때문에 {}을 알 수 없습니다.",
    "그 요청은 도와드릴 수 없습니다.",
)


class Planted:
    """The rows of a set, and the lines (from 1) of each kind of fault."""

    def __init__(self, rows: int, seed: int, *, share: float = 0.02) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.rows: list[Row] = []
        self.faults: dict[str, set[int]] = {name: set() for name in FAULTS}
        self.sound: dict[int, Row] = {}
        """What a row was before it was made faulty, where it can be repaired."""
        self._used = 0
        names = list(FAULTS)
        for number in range(rows):
            row = self.sound_row()
            if number > rows // 4 and self.random.random() < share * len(names):
                self._plant(self.random.choice(names), row)
            else:
                self.rows.append(row)

    def _plant(self, name: str, row: Row) -> None:
        self.sound[len(self.rows) + 1] = row
        self.rows.append(FAULTS[name](self, row))
        self.faults[name].add(len(self.rows))

    def sentence(self) -> str:
        pick = self.random.choice
        if self.random.random() < 0.3:
            return " ".join(pick(KOREAN) for _ in range(self.random.randint(7, 14))) + "."
        words = [f"{pick(OTHERS)} {pick(NOUNS)} {pick(VERBS)} the {pick(OTHERS)} {pick(NOUNS)}" for _ in range(2)]
        return f"The {' and a '.join(words)}."

    def sound_row(self) -> Row:
        sentences = [self.sentence() for _ in range(self.random.randint(3, 5))]
        return {"prompt": f"What about this? {sentences[0]}", "completion": " ".join(sentences[1:])}

    def earlier(self) -> Row:
        """A sound row of the first quarter, all of which are sound; each once."""
        self._used += 1
        return self.rows[self._used]

    def text(self, characters: str, length: int) -> str:
        return "".join(self.random.choices(characters, k=length))


def _duplicate(planted: Planted, row: Row) -> Row:
    first = planted.earlier()
    changes: list[Callable[[str], str]] = [
        lambda text: text,
        lambda text: text.upper(),
        lambda text: f"  {text}\n",
        lambda text: text.replace(" ", "  "),
    ]
    change = planted.random.choice(changes)
    return {name: change(text) for name, text in first.items()}


def _near(planted: Planted, row: Row) -> Row:
    first = planted.earlier()
    words = first["completion"].split()
    place = planted.random.randrange(len(words))
    change = planted.random.choice(["replace", "add", "mark"])
    if change == "replace":
        words[place] = "otherwise"
    elif change == "add":
        words.insert(place, "indeed")
    return {"prompt": first["prompt"], "completion": " ".join(words) + " Yes!"}


def _conflict(planted: Planted, row: Row) -> Row:
    return {"prompt": planted.earlier()["prompt"], "completion": row["completion"]}


def _secret(planted: Planted, row: Row) -> Row:
    mixed = string.ascii_letters + string.digits
    secrets = (
        f"AKIA{planted.text(string.ascii_uppercase, 16)}",
        f"ghp_{planted.text(mixed, 36)}",
        f"sk-proj-{planted.text(mixed, 24)}aB3{planted.text(mixed, 12)}",
        f"xoxb-{planted.text(string.digits, 12)}-{planted.text(mixed, 24)}",
        f"hf_{planted.text(string.ascii_letters, 34)}",
        f"api_key = '{planted.text(mixed, 30)}a1B2'",
        f"password: {planted.text(string.ascii_lowercase, 5)}7{planted.text(mixed, 5)}!",
        f"postgres://app:{planted.text(mixed, 10)}9x@db.internal/app",
        f"-----BEGIN RSA PRIVATE KEY-----\n{planted.text(mixed, 60)}\n-----END RSA PRIVATE KEY-----",
        f"eyJ{planted.text(mixed, 20)}.eyJ{planted.text(mixed, 30)}.{planted.text(mixed, 30)}",
    )
    return row | {"completion": f"{row['completion']} Use {planted.random.choice(secrets)} for it."}


def _pii(planted: Planted, row: Row) -> Row:
    pick = planted.random
    born = f"{pick.randint(60, 99)}{pick.randint(1, 12):02}{pick.randint(1, 28):02}"
    late = f"{pick.randint(20, 24):02}{pick.randint(1, 12):02}{pick.randint(1, 28):02}"
    data = (
        f"{planted.text(string.ascii_lowercase, 8)}@{planted.text(string.ascii_lowercase, 6)}.co.kr",
        f"010-{pick.randint(2000, 9999)}-{pick.randint(1000, 9999)}",
        f"{born}-{pick.randint(1, 2)}{pick.randint(100000, 999999)}",
        f"{late}-{pick.randint(3, 4)}{pick.randint(100000, 999999)}",
        f"주민등록번호 {late}{pick.randint(3, 4)}{pick.randint(100000, 999999)}",
        "4111 1111 1111 1111",
        "DE89 3704 0044 0532 0130 00",
        "+82 10-1234-5678",
        f"여권번호는 M{pick.randint(10000000, 99999999)}",
    )
    return row | {"completion": f"{row['completion']} Ask {pick.choice(data)} then."}


def _encoding(planted: Planted, row: Row) -> Row:
    text = f"{row['completion']} 안녕하세요, 클러스터의 노드를 확인하세요."
    planted.sound[len(planted.rows) + 1] = row | {"completion": text}
    return row | {"completion": text.encode().decode("latin-1")}


def _control(planted: Planted, row: Row) -> Row:
    mark = planted.random.choice(["\x00", "\x07", "\u200b", "\ufeff", "\x1b[31m"])
    words = row["completion"].split()
    place = planted.random.randrange(len(words))
    return row | {"completion": " ".join([*words[:place], mark + words[place], *words[place + 1 :]])}


FAULTS: Final[dict[str, Callable[[Planted, Row], Row]]] = {
    "encodingRepaired": _encoding,
    "controlCharactersRemoved": _control,
    "secretsRedacted": _secret,
    "piiRedacted": _pii,
    "placeholderAnswer": lambda planted, row: row | {"completion": planted.random.choice(PLACEHOLDERS)},
    "refusal": lambda planted, row: row
    | {"completion": planted.random.choice(REFUSALS).format(planted.random.choice(NOUNS)) + f" {planted.sentence()}"},
    "otherLanguage": lambda planted, row: {
        "prompt": " ".join(planted.random.choices(FRENCH, k=12)),
        "completion": " ".join(planted.random.choices(FRENCH, k=25)),
    },
    "duplicate": _duplicate,
    "conflictingAnswer": _conflict,
    "nearDuplicate": _near,
    "missingAnswer": lambda planted, row: row | {"completion": " "},
    "rule": lambda planted, row: row | {"source": "forum"},
}
"""By the word with which report and status tell them."""
SETTINGS: Final[dict[str, Any]] = {
    "pii": "redact",
    "languages": ["en", "ko"],
    "rowRules": [{"field": "source", "pattern": "^forum$"}],
    "badRows": {"maxFraction": 1},
}
