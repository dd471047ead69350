"""nginx's configuration: exactly the routes of the OpenAI API that work, and nothing else of the engine.

vLLM's own --api-key guards some prefixes only: its POST /adapters loads adapters without a key, /server_info tells its
settings. So every other path ends here.
"""

import json
import re
from pathlib import Path
from typing import Final, NamedTuple

LISTEN: Final = 8080
READ_SECONDS: Final = 3600  # a long answer may pause between tokens
BODY_MEGABYTES: Final = 32


class Route(NamedTuple):
    path: str
    method: str
    key_needed: bool


ROUTES: Final = (
    Route("/v1/models", "GET", key_needed=True),
    Route("/v1/chat/completions", "POST", key_needed=True),
    Route("/v1/completions", "POST", key_needed=True),
    Route("/v1/embeddings", "POST", key_needed=True),
    Route("/health", "GET", key_needed=False),
    Route("/metrics", "GET", key_needed=False),
)


class InvalidKeyError(ValueError):
    """The key file holds something that no Authorization header can carry."""


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one a line. Raises InvalidKeyError when there is none, or one is not printable ASCII."""
    keys = path.read_text().split("\n") if path.is_file() else []
    keys = [key.strip("\r ") for key in keys if key.strip("\r ")]
    if not keys:
        raise InvalidKeyError(f"{path} holds no API key. Put one into the Secret's key, or remove spec.auth.")
    if any(not re.fullmatch(r"[\x21-\x7e]{8,512}", key) for key in keys):
        raise InvalidKeyError(
            f"{path} holds an API key that is not 8 to 512 printable ASCII characters without spaces. Use such a key."
        )
    return keys


def render(socket: Path, scratch: Path, keys: list[str]) -> str:
    """The configuration file; without keys every listed route is open."""
    locations = "\n".join(_location(route, route.key_needed and bool(keys)) for route in ROUTES)
    return f"""\
daemon off;
worker_processes 2;
pid {scratch}/nginx.pid;
error_log /dev/stderr warn;
events {{ worker_connections 4096; }}
http {{
  default_type application/json;
  server_tokens off;
  # Without the Authorization header and without the query: keys do not belong in a log.
  log_format plain '$remote_addr "$request_method $uri" $status $body_bytes_sent $request_time';
  access_log /dev/stdout plain;
  client_body_temp_path {scratch}/body;
  proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/fastcgi;
  uwsgi_temp_path {scratch}/uwsgi;
  scgi_temp_path {scratch}/scgi;
  client_max_body_size {BODY_MEGABYTES}m;
  keepalive_timeout 75s;

  # A regular expression, because plain strings in a map are compared without regard to case.
  map $http_authorization $key_known {{
    default 0;
{"".join(_known(key) for key in keys)}  }}

  upstream engine {{
    server unix:{socket};
    keepalive 32;
  }}

  server {{
    listen {LISTEN};
    error_page 413 @too_large;
    error_page 502 503 504 =503 @unavailable;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header Authorization "";
    proxy_buffering off;
    proxy_read_timeout {READ_SECONDS}s;
    proxy_send_timeout {READ_SECONDS}s;

{locations}
    location / {{ {_answer(404, "invalid_request_error", "This route is not served here.")} }}
    location @too_large {{ {TOO_LARGE} }}
    location @unavailable {{ {_answer(503, "server_error", "The engine is not ready.")} }}
  }}
}}
"""


def _known(key: str) -> str:
    # Signs as hexadecimal escapes: none can end the string or mean something in the pattern.
    pattern = re.sub(r"[^A-Za-z0-9]", lambda sign: f"\\x{ord(sign[0]):02x}", key)
    return f'    "~^Bearer {pattern}$" 1;\n'


def _location(route: Route, check_key: bool) -> str:
    method = "GET|HEAD" if route.method == "GET" else route.method
    lines = [
        f"    location = {route.path} {{",
        *([f"      if ($key_known = 0) {{ {WRONG_KEY} }}"] if check_key else []),
        f"      if ($request_method !~ ^({method})$) {{ {_wrong_method(route)} }}",
        # The path is written out: what the client wrote before nginx normalised it never reaches the engine.
        f"      proxy_pass http://engine{route.path};",
        "    }",
    ]
    return "\n".join(lines)


def _answer(status: int, kind: str, message: str) -> str:
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}})
    return f"return {status} '{body}';"


TOO_LARGE: Final = _answer(413, "invalid_request_error", f"The request is larger than {BODY_MEGABYTES} MiB.")
WRONG_KEY: Final = _answer(401, "authentication_error", "Missing or wrong API key: send Authorization: Bearer KEY.")


def _wrong_method(route: Route) -> str:
    return _answer(405, "invalid_request_error", f"Use {route.method} for {route.path}.")
