"""Where a row with some content is: of each row only hashes and numbers stay in memory."""

from array import array

from tuneyard_trainer.data.examples import Key
from tuneyard_trainer.data.readers.row import Place


class KnownPlaces:
    """The places of rows by their keys, 8 bytes for each place beside the key."""

    def __init__(self) -> None:
        self._index: dict[Key, int] = {}
        self._files: dict[tuple[str, str], int] = {}
        self._file: array[int] = array("I")
        self._number: array[int] = array("I")

    def add(self, key: Key, place: Place) -> None:
        """Numbers are given from 0 in the order of the calls."""
        self._index[key] = len(self._number)
        self._file.append(self._files.setdefault((place.uri, place.unit), len(self._files)))
        self._number.append(place.number)

    def number(self, key: Key) -> int | None:
        """The number of a key; None where it was not added."""
        return self._index.get(key)

    def place(self, number: int) -> Place:
        """By the number of its key."""
        uri, unit = [*self._files][self._file[number]]
        return Place(uri, self._number[number], unit)
