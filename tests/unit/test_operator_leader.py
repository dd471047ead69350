"""Who may acquire a Lease, and the times that keep two leaders apart."""

import pytest

from tuneyard_operator.machinery.lease import DEFAULT, Record, may_acquire

HELD = Record("other", 15, "2030-01-01T00:00:00.000000Z", "2030-01-01T00:00:00.000000Z", 3)


@pytest.mark.parametrize(
    ("record", "unchanged", "free"),
    [
        pytest.param(Record(), 0, True, id="there is no Lease"),
        pytest.param(HELD, 0, False, id="just renewed"),
        pytest.param(HELD, 14.999, False, id="still valid"),
        pytest.param(HELD, 15, True, id="expired"),
        pytest.param(HELD._replace(renewed="1970-01-01T00:00:00.000000Z"), 14.999, False, id="its clock is far behind"),
        pytest.param(HELD._replace(renewed="2999-01-01T00:00:00.000000Z"), 15, True, id="its clock is far ahead"),
        pytest.param(HELD._replace(seconds=60), 59.999, False, id="the holder's duration counts"),
        pytest.param(HELD.released(), 0, True, id="released"),
        pytest.param(HELD._replace(holder="me"), 0, True, id="ours, by a write whose response was lost"),
    ],
)
def test_who_may_acquire_a_lease(record: Record, unchanged: float, free: bool) -> None:
    assert may_acquire(record, observed_at=100.0, now=100.0 + unchanged, identity="me") is free


def test_acquiring_counts_transitions_and_renewing_does_not() -> None:
    first = Record().acquired_by("a", 15)
    assert (first.holder, first.seconds, first.transitions) == ("a", 15, 0)
    second = first.renewed_now().released().acquired_by("b", 20)
    assert (second.holder, second.seconds, second.transitions) == ("b", 20, 1)


def test_renewing_keeps_the_time_of_acquisition() -> None:
    renewed = HELD.renewed_now()
    assert renewed != HELD
    assert renewed._replace(renewed=HELD.renewed) == HELD


def test_record_round_trips() -> None:
    assert Record.of({"spec": HELD.spec()}) == HELD
    assert Record.of({"metadata": {}}) == Record.of(None) == Record()


def test_holder_stops_before_others_may_acquire() -> None:
    longest_pause = 1.2 * DEFAULT.retry
    assert DEFAULT.request_timeout() + longest_pause < DEFAULT.deadline < DEFAULT.lease, "and has time for a second try"
    assert all(DEFAULT.retry <= DEFAULT.retry_period() <= longest_pause for _ in range(100))
