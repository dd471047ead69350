"""Functions fit a screen and are simple, files hold one idea."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from radon.complexity import cc_visit
from radon.visitors import Class, Function

ROOT = Path(__file__).parents[2]
SOURCES = ("crds", "store", "operator", "trainer", "server", "cli", "charts", "images", "examples")
FUNCTION_LINES = 60
COMPLEXITY = 12
FILE_LINES = 400


def python_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in map(ROOT.joinpath, listed.stdout.splitlines()) if path.exists()]


def functions(path: Path) -> Iterator[Function]:
    """All functions of a file, with those of classes and of other functions."""
    pending: list[Function | Class] = list(cc_visit(path.read_text()))
    while pending:
        block = pending.pop()
        if isinstance(block, Class):
            pending += [*block.methods, *block.inner_classes]
        else:
            pending += block.closures
            yield block


@pytest.fixture(scope="module")
def source_functions() -> list[tuple[str, Function]]:
    files = [path for path in python_files() if path.relative_to(ROOT).parts[0] in SOURCES]
    found = [(f"{path.relative_to(ROOT)}:{block.name}", block) for path in files for block in functions(path)]
    assert len(found) > 500
    return found


def test_functions_fit_a_screen(source_functions: list[tuple[str, Function]]) -> None:
    lengths = {name: block.endline - block.lineno + 1 for name, block in source_functions}
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES} == {}


def test_functions_are_simple(source_functions: list[tuple[str, Function]]) -> None:
    """Cyclomatic complexity as radon counts it, boolean operators included."""
    assert {name: block.complexity for name, block in source_functions if block.complexity > COMPLEXITY} == {}


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}
