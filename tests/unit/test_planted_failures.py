"""Each planted failure says what to change, and is over when that is changed; docs/failures.md has them all."""

import logging
from collections.abc import Iterator

import pytest

from planted import FINE, Planted, shown
from planted.page import ALL, PAGE, page


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The stages log what they refuse."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("planted", ALL, ids=lambda planted: f"{planted.kind}: {planted.cause}")
def test_message_names_what_to_change(planted: Planted) -> None:
    seen = shown(planted)
    assert seen != FINE
    for words in planted.names:
        assert words in seen.message, seen


@pytest.mark.parametrize("planted", [each for each in ALL if each.mended], ids=lambda planted: planted.cause)
def test_remedy_works(planted: Planted) -> None:
    assert planted.mended and planted.mended() == FINE


def test_there_are_many_of_both_kinds() -> None:
    kinds = [planted.kind for planted in ALL]
    assert len(ALL) >= 60 and min(kinds.count(kind) for kind in ("FineTuneJob", "ModelServer")) >= 20
    assert len({(planted.kind, planted.cause) for planted in ALL}) == len(ALL)


def test_page_has_them_all() -> None:
    assert PAGE.read_text() == page(), "run make generate"
