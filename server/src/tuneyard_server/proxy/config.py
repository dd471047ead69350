"""nginx's configuration: the routes of the engine that clients may use, and nothing else.

An allow list is needed because vLLM's own --api-key guards some prefixes only: POST /adapters loads adapters without a
key, and /server_info shows the settings.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tuneyard_api.names import METRICS_PORT, PROXY_PORT
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


class Front(NamedTuple):
    """What the proxy offers to clients."""

    routes: Sequence[Route]
    served_name: str
    """The model's name in the OpenAI API: GET /v1/models/{name} is answered by the proxy, because vLLM lacks it."""
    origins: Sequence[str] = ()
    """The origins of web pages whose scripts may call the API (CORS); "*": all."""


class Page(NamedTuple):
    """The answer where nginx itself refuses a request, or the engine cannot be reached."""

    status: int
    kind: str
    message: str


# By the status that nginx has for it; 494 is its own, for a header that is too large.
PAGES: Final[Mapping[int, Page]] = {
    400: Page(400, "invalid_request_error", "The request is not valid HTTP: see its header fields."),
    405: Page(405, "invalid_request_error", "This method is not allowed."),
    408: Page(408, "invalid_request_error", "The request did not arrive in time."),
    411: Page(411, "invalid_request_error", "The request has no Content-Length."),
    413: Page(413, "invalid_request_error", f"The request is larger than {BODY_MEGABYTES} MiB."),
    414: Page(414, "invalid_request_error", "The URL is too long."),
    494: Page(431, "invalid_request_error", "The request's header is too large."),
    500: Page(500, "server_error", "The proxy failed: see its log."),
    501: Page(501, "invalid_request_error", "This transfer encoding is not supported."),
    502: Page(503, "server_error", "The engine is not ready."),
    503: Page(503, "server_error", "The engine is not ready."),
    504: Page(504, "server_error", f"The engine sent nothing for {READ_SECONDS} s."),
    505: Page(505, "invalid_request_error", "This version of HTTP is not supported."),
}


def render(front: Front, socket: Path, scratch: Path, keys: Sequence[str]) -> str:
    """The text of nginx.conf. Without keys every listed route is open."""
    model = {"id": front.served_name, "object": "model", "created": int(time.time()), "owned_by": "tuneyard"}
    return TEMPLATES.get_template("nginx.conf.j2").render(
        routes=front.routes,
        served_name=front.served_name,
        model=_quotable(model),
        origins=front.origins,
        origin_patterns=[_literal_pattern(origin) for origin in front.origins if origin != "*"],
        socket=socket,
        scratch=scratch,
        key_patterns=[_literal_pattern(key) for key in keys],
        pages=PAGES,
        port=PROXY_PORT,
        metrics_port=METRICS_PORT,
        read_seconds=READ_SECONDS,
        body_megabytes=BODY_MEGABYTES,
        answer=_answer,
    )


def _literal_pattern(text: str) -> str:
    """A regular expression for the text alone: punctuation is escaped as \\xNN, so it cannot end nginx's string."""
    return re.sub(r"[^A-Za-z0-9]", lambda character: f"\\x{ord(character[0]):02x}", text)


def _answer(status: int, kind: str, message: str, code: str | None = None) -> str:
    """nginx's directive that returns an error as the OpenAI API does."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code or status}}
    return f"return {status} '{_quotable(body)}';"


def _quotable(document: Mapping[str, Any]) -> str:
    """JSON that may stand between nginx's single quotes, where $ begins a variable."""
    return json.dumps(document).replace("'", "\\u0027").replace("$", "\\u0024")
