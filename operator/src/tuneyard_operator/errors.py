"""What a failed call to the API server means: one table.

ApiError
└── its Verdict: RETRY, WAIT or GIVE_UP
"""

from enum import Enum
from typing import Final


class ApiError(Exception):
    """The API server refused (status is HTTP's), or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason} ({status}): {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Verdict(Enum):
    RETRY = "again, later and later"
    WAIT = "nothing to do until something changes, and then an event comes"
    GIVE_UP = "the same request will always be refused: a person has to change the spec"


UNREACHABLE: Final = 0

TABLE: Final = {
    UNREACHABLE: Verdict.RETRY,
    400: Verdict.GIVE_UP,
    401: Verdict.RETRY,  # a token that has just been rotated
    403: Verdict.RETRY,  # a quota or a role that somebody may change without our hearing of it
    404: Verdict.WAIT,  # the object or its namespace is gone
    409: Verdict.RETRY,  # somebody else wrote: look again
    410: Verdict.RETRY,
    413: Verdict.GIVE_UP,
    422: Verdict.GIVE_UP,
    429: Verdict.RETRY,
}


def classify(error: BaseException) -> Verdict:
    """Anything that is not the API server's answer is our own mistake; another try may go better."""
    if not isinstance(error, ApiError):
        return Verdict.RETRY
    if error.status == 403 and "being terminated" in error.message:
        return Verdict.WAIT
    return TABLE.get(error.status, Verdict.RETRY)
