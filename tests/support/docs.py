"""The fenced blocks of the documentation, and the commands in them.

The language of a fence says what it holds: `sh` commands, `console` commands after `$ ` and their output, `yaml`
complete objects or, after a first line `# values.yaml`, values of the chart. Blocks of other languages are only shown.
"""

import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LANGUAGES: Final = ("sh", "console", "yaml", "text", "mermaid")
SUBSTITUTION: Final = re.compile(r"\$\(([^()]*)\)")
ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=")


class Block(NamedTuple):
    """A fenced block."""

    file: str
    line: int
    """Of its first line of text, from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def documents() -> list[Path]:
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "images" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 2
        yield Block(str(path.relative_to(ROOT)), line, found[2], found[3])


def section(path: Path, heading: str) -> str:
    """The text below a heading, up to the next one of the same level."""
    level = heading.split(" ")[0]
    body = path.read_text().split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^{level} ", body, maxsplit=1, flags=re.MULTILINE)[0]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of an `sh` or `console` block, without assignments and redirections.

    Raises:
        ValueError: the shell's syntax is broken, or goes beyond what is understood here.
    """
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    yield from _commands(text)


def _commands(text: str) -> Iterator[list[str]]:
    for inner in SUBSTITUTION.findall(text):
        yield from _commands(inner)
    for line in SUBSTITUTION.sub("substituted", text).splitlines():
        for words in _split(line):
            if command := list(dropwhile(ASSIGNMENT.match, words)):
                yield command


def _split(line: str) -> Iterator[list[str]]:
    """The commands of a line, at its operators."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in (tokens := iter(lexer)):
        if word in (">", ">>"):
            next(tokens)
        elif word in ("|", "||", "&&", "&", ";"):
            yield words
            words = []
        elif set(word) <= set("();<>|&"):
            raise ValueError(f"{line}: {word} is not understood")
        else:
            words.append(word)
    yield words
