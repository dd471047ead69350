"""The format of the log: one line a record. Within a reconcile it names the object that is reconciled."""

import json
import logging
import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

_about: ContextVar[Hashable] = ContextVar("about", default=None)

FORMATS: Final = ("text", "json")


@contextmanager
def about(key: Hashable) -> Iterator[None]:
    """Records within the block are about that object."""
    token = _about.set(key)
    try:
        yield
    finally:
        _about.reset(token)


class Json(logging.Formatter):
    """A JSON object a line. `object` is the kind, namespace and name of the object that is reconciled."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (key := _about.get()) is not None:
            line["object"] = str(key)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        key = _about.get()
        message = f"{key}: {record.getMessage()}" if key is not None else record.getMessage()
        line = f"{_time(record)} {record.levelname} {record.name}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def set_up(level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Json() if form == "json" else Text())
    logging.basicConfig(level=level, handlers=[handler])
