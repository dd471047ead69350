"""The requests of tests/engines have every option that OpenAI documents, and the same seed gives the same requests."""

from collections.abc import Mapping
from typing import Any

import pytest
from openai.types import completion_create_params as completion
from openai.types.chat import completion_create_params as chat

from engines.options import CHAT, COMPLETION, alone, mixes


@pytest.mark.parametrize(
    ("documented", "options"),
    [
        (chat.CompletionCreateParamsNonStreaming, CHAT | {"messages": ()}),
        (completion.CompletionCreateParamsNonStreaming, COMPLETION | {"prompt": ()}),
    ],
)
def test_every_documented_option_is_sent(documented: type, options: Mapping[str, Any]) -> None:
    assert set(documented.__annotations__) - {"model"} <= set(options)


def test_every_value_is_sent_alone() -> None:
    requests = [*alone()]
    assert len(requests) > 350
    assert {path for path, _ in requests} == {"/v1/chat/completions", "/v1/completions"}


def test_mixes_depend_on_the_seed_alone() -> None:
    assert [*mixes(20, 1)] == [*mixes(20, 1)]
    assert [*mixes(20, 1)] != [*mixes(20, 2)]
