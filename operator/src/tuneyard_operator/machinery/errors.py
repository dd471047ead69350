"""What a failed call to the API server means, and how soon to retry: one table.

ApiError
└── its Rule: a Verdict (RETRY, WAIT or GIVE_UP) and the pace of the retries
"""

from enum import Enum
from typing import Final, NamedTuple


class ApiError(Exception):
    """The API server refused (with HTTP's status), or could not be reached (status 0).

    `retry_after`: seconds that the API server asks to wait before the next request.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason} ({status}): {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Verdict(Enum):
    RETRY = "retry with a growing delay"
    WAIT = "wait for a change, which causes an event"
    GIVE_UP = "give up: the same request will always be refused until the spec changes"


class Rule(NamedTuple):
    """`first`: seconds to wait after a first failure. They double with each further one, up to `longest`."""

    verdict: Verdict
    first: float = 0.5
    longest: float = 120.0


UNREACHABLE: Final = 0
DEFAULT: Final = Rule(Verdict.RETRY)

TABLE: Final = {
    UNREACHABLE: Rule(
        Verdict.RETRY, first=1.0, longest=30.0
    ),  # a short delay, and jitter because all clients retry at once
    400: Rule(Verdict.GIVE_UP),
    401: Rule(Verdict.RETRY, longest=30.0),  # the token has just been rotated
    403: Rule(Verdict.RETRY, first=5.0, longest=300.0),  # a quota or a role, whose changes cause no event
    404: Rule(Verdict.WAIT),  # the object or its namespace is gone
    409: Rule(Verdict.RETRY, first=0.1, longest=10.0),  # somebody else wrote, and the watch is about to report it
    410: Rule(Verdict.RETRY, first=0.1, longest=30.0),  # the watch's resourceVersion has expired: list again
    413: Rule(Verdict.GIVE_UP),
    422: Rule(Verdict.GIVE_UP),
    429: Rule(Verdict.RETRY, first=1.0, longest=60.0),
}


def rule(error: BaseException) -> Rule:
    """The rule for an error. Any other exception is a defect of the operator, after which a retry may still succeed."""
    if not isinstance(error, ApiError):
        return DEFAULT
    if error.status == 403 and "being terminated" in error.message:
        return Rule(Verdict.WAIT)
    return TABLE.get(error.status, DEFAULT)


def classify(error: BaseException) -> Verdict:
    return rule(error).verdict


def delay(error: BaseException, failures: int, jitter: float) -> float:
    """Seconds to wait after that many failures in a row. `jitter`, from 0 to 1, spreads keys that failed together."""
    pace = rule(error)
    # The exponent is bounded, because an hour of failures would overflow a float.
    grown = min(pace.longest, pace.first * 2.0 ** min(failures - 1, 30)) * (0.75 + 0.5 * jitter)
    asked = error.retry_after if isinstance(error, ApiError) else None
    return max(grown, (asked or 0.0) * (1 + 0.25 * jitter))


def described(error: BaseException) -> str:
    """What an error says, for a log line; of one that says nothing, as a timeout, its type."""
    return str(error) or type(error).__name__


def reason(error: BaseException) -> str:
    """The reason as one word, for metrics."""
    return error.reason if isinstance(error, ApiError) else type(error).__name__
