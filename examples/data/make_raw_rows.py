"""Writes raw rows as they are often found: 2,000 questions and answers, of which one in ten is fit for training.

The sound rows are from kubernetes-fields.jsonl. The others repeat them, contradict them, or have faults that are
common in what people collect. Usage: python make_raw_rows.py > raw-rows.jsonl
"""

import argparse
import json
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

Row = dict[str, str]

SOURCE: Final = Path(__file__).parent / "kubernetes-fields.jsonl"
SHORTEST: Final = 100  # characters of a sound answer
OVERLAP: Final = 8
"""No two sound answers have so many words in a row in common."""
FIRST: Final = 10
"""So many fit rows come first, so that there is something to repeat."""
FIT: Final = ""
COMPARED: Final = ("nearDuplicate", "conflictingAnswer")
"""Rows of these kinds are all different; otherwise they were duplicates."""


class RawRow(NamedTuple):
    """A line of the file, and what is known of it."""

    line: str
    fault: str
    """The reason for which cleaning drops it; empty for a row that is fit."""
    meant: Row
    """The row that the line stands for; that of a fit row is what is trained."""


def raw_rows(seed: int = 1, fit: int = 200) -> list[RawRow]:
    """All rows in the order of the file. What repeats a row comes after it."""
    dice = random.Random(seed)  # noqa: S311
    sound = sound_rows(dice)
    kinds = [FIT] * fit + [kind for kind, (share, _) in FAULTS.items() for _ in range(round(fit * share))]
    meant: list[Row] = []
    made: list[RawRow] = []
    seen: set[str] = set()
    for kind in [FIT] * FIRST + dice.sample(kinds[FIRST:], len(kinds) - FIRST):
        if kind == FIT:
            row, as_meant = dice.choice(REPAIRABLE)(dice, next(sound))
            meant.append(as_meant)
            made.append(RawRow(_line(row), kind, as_meant))
        else:
            made.append(_faulty(kind, dice, meant, seen))
    return made


def _faulty(kind: str, dice: random.Random, meant: Sequence[Row], seen: set[str]) -> RawRow:
    while True:
        row = dice.choice(meant)
        faulty = FAULTS[kind][1](dice, row)
        line = faulty if isinstance(faulty, str) else _line(faulty)
        if kind not in COMPARED or line not in seen:
            seen.add(line)
            return RawRow(line, kind, row)


def sound_rows(dice: random.Random) -> Iterator[Row]:
    """Rows of the source that have nothing in common with those before them."""
    rows = [json.loads(line) for line in SOURCE.read_text().splitlines()]
    seen: set[tuple[str, ...]] = set()
    for row in dice.sample(rows, len(rows)):
        words = row["answer"].casefold().split()
        runs = {tuple(words[at : at + OVERLAP]) for at in range(len(words) - OVERLAP + 1)}
        if len(row["answer"]) >= SHORTEST and not runs & seen:
            seen |= runs
            yield row


def _line(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _text(dice: random.Random, characters: str, length: int) -> str:
    return "".join(dice.choices(characters, k=length))


# What cleaning repairs: these rows are fit.


def _as_it_is(dice: random.Random, row: Row) -> tuple[Row, Row]:
    return row, row


def _decoded_wrongly(dice: random.Random, row: Row) -> tuple[Row, Row]:
    meant = row | {"answer": f"{row['answer']} That\u2019s what the API\u2019s reference says."}
    return meant | {"answer": meant["answer"].encode().decode("cp1252")}, meant


def _invisible(dice: random.Random, row: Row) -> tuple[Row, Row]:
    before, _, after = row["answer"].partition(" ")
    return row | {"answer": f"{before} {dice.choice(UNSEEN)}{after}"}, row


def _with_a_token(dice: random.Random, row: Row) -> tuple[Row, Row]:
    token = f"ghp_{_text(dice, string.ascii_letters + string.digits, 36)}"
    answers = [f"{row['answer']} I use {shown} for it." for shown in (token, "[github-token]")]
    return row | {"answer": answers[0]}, row | {"answer": answers[1]}


UNSEEN: Final = ("\u200b", "\ufeff", "\x07", "\x1b[0m")
REPAIRABLE: Final = (*[_as_it_is] * 12, _decoded_wrongly, _invisible, _with_a_token)

# What makes a row unfit.


def _duplicate(dice: random.Random, row: Row) -> Row:
    changes: Sequence[Callable[[str], str]] = (str, str, str.upper, lambda text: f" {text}\n")
    change = dice.choice(changes)
    return {name: change(text) for name, text in row.items()}


def _nearly_the_same(dice: random.Random, row: Row) -> Row:
    words = row["answer"].split()
    del words[dice.choice([place for place, word in enumerate(words) if word.isalpha()])]
    return row | {"answer": dice.choice([f"Sure! {row['answer']}", f"{row['answer']} Thanks!", " ".join(words)])}


def _contradiction(dice: random.Random, row: Row) -> Row:
    subject = row["answer"].removeprefix("**").partition("**")[0]
    return row | {"answer": dice.choice(GUESSES).format(subject=subject, release=dice.randrange(4, 34))}


def _refusal(dice: random.Random, row: Row) -> Row:
    return row | {"answer": dice.choice(REFUSALS)}


def _placeholder(dice: random.Random, row: Row) -> Row:
    return row | {"answer": dice.choice(("TODO", "N/A", "tbd", "...", "[insert answer here]", "To be determined."))}


def _without_answer(dice: random.Random, row: Row) -> str:
    answers: Sequence[dict[str, object]] = ({}, {"answer": None}, {"answer": ""}, {"answer": " "})
    return _line({"question": row["question"], **dice.choice(answers)})


def _broken_off(dice: random.Random, row: Row) -> str:
    line = _line(row)
    return line[: dice.randrange(10, len(line) - 1)]


def _in_another_language(dice: random.Random, row: Row) -> Row:
    question, answer = dice.choice(OTHER_LANGUAGES)
    return {"question": question, "answer": answer}


def _from_a_forum(dice: random.Random, row: Row) -> Row:
    return {"question": row["question"], "answer": f"+1, same here. {row['answer']}", "source": "forum"}


def _lost_characters(dice: random.Random, row: Row) -> Row:
    place = dice.randrange(len(row["answer"]))
    return row | {"answer": f"{row['answer'][:place]}\ufffd\ufffd{row['answer'][place:]}"}


def _personal(dice: random.Random, row: Row) -> Row:
    name = _text(dice, string.ascii_lowercase, 8)
    contact = dice.choice((f"{name}@{name}.com", f"010-{dice.randrange(2000, 9999)}-{dice.randrange(1000, 9999)}"))
    return row | {"answer": f"{row['answer']} Ask {contact} if this does not help."}


def _pasted_log(dice: random.Random, row: Row) -> Row:
    names = [_text(dice, string.ascii_lowercase, 8) for _ in range(100)]
    lines = [f"The scheduler is still waiting for the pod {name} to be ready." for name in names]
    return {"question": f"{row['question']} My cluster {names[0]} says this.", "answer": "\n".join(lines)}


GUESSES: Final = (
    "I think {subject} has no effect any more since release 1.{release}, so leave it empty and restart the kubelet.",
    "As far as I know {subject} is only read by the dashboard. Nobody sets it, we removed it in 1.{release} at work.",
    "{subject} was renamed in 1.{release}; use an annotation of your own and a mutating webhook in its place.",
)
REFUSALS: Final = (
    "As an AI language model, I cannot answer questions about your cluster.",
    "I'm sorry, but I can't assist with that request.",
    "Sorry, I can't help you with that.",
    "I am just an AI and do not know the Kubernetes API.",
    "Unfortunately, I am unable to provide information about this field.",
)
OTHER_LANGUAGES: Final = (
    (
        "Que signifie ce champ et quand faut-il le remplir dans le manifeste ?",
        "Il indique au serveur combien de temps il doit attendre avant de supprimer l'objet de la base de données.",
    ),
    (
        "Was bedeutet dieses Feld, und wann muss man es in der Datei ausfüllen?",
        "Es sagt dem Server, wie lange er warten soll, bevor er das Objekt endgültig aus der Datenbank entfernt.",
    ),
    (
        "¿Qué significa este campo y cuándo hay que rellenarlo en el archivo?",
        "Indica al servidor cuánto tiempo debe esperar antes de borrar definitivamente el objeto de la base de datos.",
    ),
    (
        "이 필드는 무엇을 뜻하며 언제 채워야 합니까?",
        "서버가 객체를 지우기 전에 얼마나 오래 기다려야 하는지를 알려 주는 값입니다.",
    ),
)
FAULTS: Final[dict[str, tuple[float, Callable[[random.Random, Row], Row | str]]]] = {
    "duplicate": (2.1, _duplicate),
    "nearDuplicate": (1.2, _nearly_the_same),
    "refusal": (0.9, _refusal),
    "placeholderAnswer": (0.8, _placeholder),
    "otherLanguage": (0.8, _in_another_language),
    "conflictingAnswer": (0.7, _contradiction),
    "rule": (0.7, _from_a_forum),
    "missingAnswer": (0.6, _without_answer),
    "pii": (0.3, _personal),
    "invalidJSON": (0.3, _broken_off),
    "lostCharacters": (0.3, _lost_characters),
    "tooLong": (0.3, _pasted_log),
}
"""By the reason for which cleaning drops them: how many there are for each fit row, and how a sound row becomes one."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    for made in raw_rows(parser.parse_args().seed):
        print(made.line)
