"""What a failed call to the API server means, and how soon to try again: one table.

ApiError
└── its Rule: a Verdict (RETRY, WAIT or GIVE_UP) and the pace of the retries
"""

from enum import Enum
from typing import Final, NamedTuple


class ApiError(Exception):
    """The API server refused (status is HTTP's), or could not be reached (status 0).

    `retry_after`: seconds that the API server asks to be left alone.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason} ({status}): {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Verdict(Enum):
    RETRY = "again, later and later"
    WAIT = "nothing to do until something changes, and then an event comes"
    GIVE_UP = "the same request will always be refused: a person has to change the spec"


class Rule(NamedTuple):
    """`first`: seconds after a first failure; they double with each further one, up to `longest`."""

    verdict: Verdict
    first: float = 0.5
    longest: float = 120.0


UNREACHABLE: Final = 0
ANY: Final = Rule(Verdict.RETRY)

TABLE: Final = {
    UNREACHABLE: Rule(Verdict.RETRY, first=1.0, longest=30.0),  # it comes back for all at once: soon, but spread
    400: Rule(Verdict.GIVE_UP),
    401: Rule(Verdict.RETRY, longest=30.0),  # a token that has just been rotated
    403: Rule(Verdict.RETRY, first=5.0, longest=300.0),  # a quota or a role; who changes them does not tell us
    404: Rule(Verdict.WAIT),  # the object or its namespace is gone
    409: Rule(Verdict.RETRY, first=0.1, longest=10.0),  # somebody else wrote, and the news is on its way
    410: Rule(Verdict.RETRY, first=0.1, longest=30.0),  # our place in the history is forgotten: list again
    413: Rule(Verdict.GIVE_UP),
    422: Rule(Verdict.GIVE_UP),
    429: Rule(Verdict.RETRY, first=1.0, longest=60.0),
}


def rule(error: BaseException) -> Rule:
    """Anything that is not the API server's answer is our own mistake; another try may go better."""
    if not isinstance(error, ApiError):
        return ANY
    if error.status == 403 and "being terminated" in error.message:
        return Rule(Verdict.WAIT)
    return TABLE.get(error.status, ANY)


def classify(error: BaseException) -> Verdict:
    return rule(error).verdict


def delay(error: BaseException, failures: int, jitter: float) -> float:
    """Seconds to wait after that many failures in a row; `jitter` of 0 to 1 spreads those that failed together."""
    pace = rule(error)
    # The exponent is bounded because floats are: an hour of failures would overflow them.
    grown = min(pace.longest, pace.first * 2.0 ** min(failures - 1, 30)) * (0.75 + 0.5 * jitter)
    asked = error.retry_after if isinstance(error, ApiError) else None
    return max(grown, (asked or 0.0) * (1 + 0.25 * jitter))


def reason(error: BaseException) -> str:
    """One word, for metrics."""
    return error.reason if isinstance(error, ApiError) else type(error).__name__
