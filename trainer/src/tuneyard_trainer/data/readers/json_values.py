"""JSON: an array of objects, or objects one after another, in any layout. One object at a time is in memory."""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any, Final

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.readers.encodings import not_utf8
from tuneyard_trainer.data.readers.json_objects import as_object, pairs
from tuneyard_trainer.data.readers.row import BrokenRow, Place, Row
from tuneyard_trainer.data.readers.values import ROW_BYTES, too_large
from tuneyard_trainer.runtime.errors import BadInput

CHUNK_BYTES: Final = 2**18
WHITE_SPACE: Final = " \t\r\n\x1e"
_STRICT: Final = json.JSONDecoder(object_pairs_hook=pairs)
_LENIENT: Final = json.JSONDecoder()
_WORD: Final = 16
"""An error so near to the end of what has been read may be a word or a number that goes on."""


def read(stream: IO[bytes], uri: str) -> Iterator[Row | BrokenRow]:
    text = _Text(stream, uri)
    is_array = text.peek() == "["
    if is_array:
        text.at += 1
        if text.peek() == "]":
            return
    while text.peek():
        place = Place(uri, text.line)
        value, error = text.value()
        try:
            if error:
                raise error
            yield Row(as_object(value), place)
        except RowError as wrong:
            yield BrokenRow(value, place, wrong)
        if is_array and not text.goes_on():
            return


class _Text:
    """The part of a file that has been read and not used, decoded."""

    def __init__(self, stream: IO[bytes], uri: str) -> None:
        self._stream = stream
        self._uri = uri
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._ended = False
        self.at = 0
        self.line = 1

    def peek(self) -> str:
        """The next character that is no white space; nothing at the end of the file."""
        while True:
            while self.at < len(self._text) and self._text[self.at] in WHITE_SPACE:
                self.line += self._text[self.at] == "\n"
                self.at += 1
            if self.at < len(self._text) or self._ended:
                return self._text[self.at : self.at + 1]
            self._read_on()

    def value(self) -> tuple[Any, RowError | None]:
        """The JSON value that begins here, and an error if it has a name twice.

        Raises:
            BadInput: there is none; nothing after it can be read.
        """
        while True:
            try:
                value, end, twice = self._decode_value()
            except json.JSONDecodeError as error:
                if self._ended or not _may_go_on(error, self._text):
                    raise self._invalid(f"not JSON: {error.msg.removesuffix(' at')}", error.pos) from error
            except (RecursionError, ValueError) as error:
                what = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
                raise self._invalid(what, self.at) from error
            else:
                if end < len(self._text) or self._ended:
                    self.line += self._text.count("\n", self.at, end)
                    self.at = end
                    return value, twice
            self._read_on()

    def _decode_value(self) -> tuple[Any, int, RowError | None]:
        try:
            return *_STRICT.raw_decode(self._text, self.at), None
        except RowError as error:
            return *_LENIENT.raw_decode(self._text, self.at), error

    def goes_on(self) -> bool:
        """Whether another element of the array follows.

        Raises:
            BadInput: neither a comma nor the end of the array follows.
        """
        follows = self.peek()
        self.at += 1
        if follows == ",":
            return True
        if follows != "]":
            raise self._invalid("the array goes on without a comma" if follows else "the array has no end", self.at - 1)
        if self.peek():
            raise self._invalid("something follows after the end of the array", self.at)
        return False

    def _read_on(self) -> None:
        if len(self._text) - self.at > ROW_BYTES:
            raise too_large().at(str(Place(self._uri, self.line)))
        data = self._stream.read(max(CHUNK_BYTES, len(self._text) - self.at))
        self._ended = not data
        try:
            added = self._decode(data, self._ended)
        except UnicodeDecodeError as error:
            line = self.line + self._text.count("\n", self.at) + error.object.count(b"\n", 0, error.start)
            byte = error.start - error.object.rfind(b"\n", 0, error.start)
            raise not_utf8(error, f"byte {byte}").at(str(Place(self._uri, line))) from error
        self._text, self.at = self._text[self.at :] + added, 0

    def _invalid(self, what: str, position: int) -> BadInput:
        line = self.line + self._text.count("\n", self.at, position)
        column = position - self._text.rfind("\n", 0, position)
        return BadInput(
            reasons.INVALID_JSON,
            f"{self._uri}, line {line}, column {column}: {what}",
            "Correct the file there, or write JSON Lines: one object per line.",
        )


def _may_go_on(error: json.JSONDecodeError, text: str) -> bool:
    """Whether more of the file may correct the error."""
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - _WORD
