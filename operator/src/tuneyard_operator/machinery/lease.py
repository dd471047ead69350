"""The record in a Lease, and who may acquire it when."""

import random
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self

from tuneyard_operator.machinery.objects import Json


class Timing(NamedTuple):
    """Seconds. A holder that cannot renew stops after `deadline`; candidates wait for `lease`."""

    lease: int = 15
    deadline: float = 10.0
    retry: float = 2.0

    def retry_period(self) -> float:
        """Seconds between two tries, with jitter."""
        return self.retry * (1 + 0.2 * random.random())  # noqa: S311 - not a secret

    def request_timeout(self) -> float:
        """For one try: half the deadline leaves time for a second one, on another connection."""
        return self.deadline / 2


DEFAULT: Final = Timing()


class Record(NamedTuple):
    """The spec of a Lease, or an empty record without a Lease. Its times are for people, and are only compared."""

    holder: str = ""
    seconds: int = 0  # for which it is valid after each renewal
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0

    @classmethod
    def of(cls, lease: Json | None) -> Self:
        spec = (lease or {}).get("spec") or {}
        return cls(
            spec.get("holderIdentity") or "",
            spec.get("leaseDurationSeconds") or 0,
            spec.get("acquireTime") or "",
            spec.get("renewTime") or "",
            spec.get("leaseTransitions") or 0,
        )

    def spec(self) -> Json:
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.seconds,
            "acquireTime": self.acquired,
            "renewTime": self.renewed,
            "leaseTransitions": self.transitions,
        }

    def acquired_by(self, holder: str, seconds: int) -> Self:
        now = _time()
        return self._replace(
            holder=holder,
            seconds=seconds,
            acquired=now,
            renewed=now,
            transitions=self.transitions + bool(self.acquired),
        )

    def renewed_now(self) -> Self:
        return self._replace(renewed=_time())

    def released(self) -> Self:
        """Without a holder and short, as client-go does it, for clients that look at the duration alone."""
        return self._replace(holder="", seconds=1, renewed=_time())


def may_acquire(record: Record, observed_at: float, now: float, identity: str) -> bool:
    """Whether a candidate may acquire a Lease whose record it has observed unchanged since `observed_at`.

    Both times are seconds of the candidate's own monotonic clock.
    """
    return record.holder in ("", identity) or now >= observed_at + record.seconds


def _time() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
