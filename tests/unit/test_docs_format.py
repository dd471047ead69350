"""What every document keeps to: languages of fences, links, paths. tests/contract/test_docs.py runs the blocks."""

import re
from pathlib import Path

import pytest

from support.docs import FENCE, LANGUAGES, ROOT, Block, blocks, commands, documents, section

DOCUMENTS = documents()
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_are_fenced_with_a_language(path: Path) -> None:
    assert not [str(block) for block in blocks(path) if block.language not in LANGUAGES]
    assert not re.findall(r"\n\n {4,}\S.*", prose(path)), "an indented block: use a fence"
    assert prose(path).count("```") == 0, "a fence that does not end, or is not at the start of a line"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(path: Path) -> None:
    words = re.findall(r"`([\w.-]+/[\w./-]*)`", prose(path))
    inside = [word for word in words if word.split("/")[0] in FOLDERS]
    assert not [word for word in inside if not (ROOT / word).exists()]


def test_registries_are_where_the_table_says() -> None:
    table = section(ROOT / "docs/architecture.md", "## Where a new thing goes")
    rows = re.findall(
        r"^\| [^|]+ \| `([^`]+)`[^|]* \| `([A-Z_]+)`[^|]*? (of the registry|there)\b", table, re.MULTILINE
    )
    assert len(rows) == table.count("\n| ") - 1
    for folder, registry, place in rows:
        file = "crds/src/tuneyard_api/registry.py" if place == "of the registry" else f"{folder}__init__.py"
        assert re.search(rf"^{registry}\b", (ROOT / file).read_text(), re.MULTILINE), f"{registry} is not in {file}"


def shell(text: str, language: str = "sh") -> list[list[str]]:
    return list(commands(Block("x.md", 1, language, text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b  # why\n\n# nothing\n", [["a", "b"]]),
        ("a \\\n  --b 'c d'\n", [["a", "--b", "c d"]]),
        ("X=1 Y=$(c d) a | b > out && e &\n", [["c", "d"], ["a"], ["b"], ["e"]]),
        ('eval "$(a b)"\nX=1\n', [["a", "b"], ["eval", "substituted"]]),
        ("a '{b,c}' -p '{\"d\":{}}'", [["a", "{b,c}", "-p", '{"d":{}}']]),
    ],
)
def test_commands_of_a_shell_block(text: str, expected: list[list[str]]) -> None:
    assert shell(text) == expected


def test_commands_of_a_console_block() -> None:
    assert shell("$ a b\noutput\n$ c\n", "console") == [["a", "b"], ["c"]]


@pytest.mark.parametrize("text", ["a <<EOF", "(a)", "a 'open", "a < file"])
def test_shell_that_is_not_understood(text: str) -> None:
    with pytest.raises(ValueError, match=r"not understood|No closing"):
        shell(text)
