"""Under which names the process writes."""

from typing import NamedTuple


class Identity(NamedTuple):
    """`field_manager` owns the applied fields and is the user agent; `component` is the source of events."""

    field_manager: str
    component: str
