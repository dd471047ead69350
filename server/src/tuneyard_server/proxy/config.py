"""nginx's configuration: the routes of the engine that clients may use, and nothing else.

An allow list is needed because vLLM's own --api-key guards some prefixes only: POST /adapters loads adapters without a
key, and /server_info shows the settings.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tuneyard_api.names import PROXY_PORT
from tuneyard_server.engines.base import Route

READ_SECONDS: Final = 3600  # a long answer may pause between tokens
BODY_MEGABYTES: Final = 32

TEMPLATES: Final = Environment(
    loader=PackageLoader("tuneyard_server.proxy"),
    autoescape=select_autoescape(),  # HTML only
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(routes: Sequence[Route], socket: Path, scratch: Path, keys: Iterable[str]) -> str:
    """The text of nginx.conf. Without keys every listed route is open."""
    return TEMPLATES.get_template("nginx.conf.j2").render(
        routes=routes,
        socket=socket,
        scratch=scratch,
        key_patterns=[_literal_pattern(key) for key in keys],
        port=PROXY_PORT,
        read_seconds=READ_SECONDS,
        body_megabytes=BODY_MEGABYTES,
        answer=_answer,
    )


def _literal_pattern(key: str) -> str:
    """A regular expression that matches the key alone: punctuation is escaped as \\xNN, so it cannot end the string."""
    return re.sub(r"[^A-Za-z0-9]", lambda character: f"\\x{ord(character[0]):02x}", key)


def _answer(status: int, kind: str, message: str) -> str:
    """nginx's directive that returns an error as the OpenAI API does."""
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}})
    return f"return {status} '{body}';"
