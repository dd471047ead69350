"""Event files as TensorBoard reads them."""

import struct
from collections.abc import Iterable

from tensorboardX.proto.event_pb2 import Event, SessionLog

Points = list[tuple[int, float]]


def events_in(data: bytes) -> list[Event]:
    """The records of a file: length, its checksum, data, its checksum. A last one that is cut off is left out."""
    events, start = [], 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        if start + length + 16 > len(data):
            break
        events.append(Event.FromString(data[start + 12 : start + 12 + length]))
        start += length + 16
    return events


def shown(files: Iterable[bytes]) -> dict[str, Points]:
    """What TensorBoard shows of files in the order of their names: a start hides what was logged of its step and of
    later ones."""
    found: dict[str, Points] = {}
    for data in files:
        for event in events_in(data):
            if event.session_log.status == SessionLog.START:
                found = {tag: [point for point in points if point[0] < event.step] for tag, points in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found
