"""Who may take a Lease: the table, and the times that keep two leaders apart."""

import pytest

from tuneyard_operator.machinery.lease import DEFAULT, Record, may_take

HELD = Record("other", 15, "2030-01-01T00:00:00.000000Z", "2030-01-01T00:00:00.000000Z", 3)


@pytest.mark.parametrize(
    ("record", "unseen", "free"),
    [
        pytest.param(Record(), 0, True, id="there is no Lease"),
        pytest.param(HELD, 0, False, id="just seen"),
        pytest.param(HELD, 14.999, False, id="not yet"),
        pytest.param(HELD, 15, True, id="silent for the lease's time"),
        pytest.param(HELD._replace(renewed="1970-01-01T00:00:00.000000Z"), 14.999, False, id="its clock is far behind"),
        pytest.param(HELD._replace(renewed="2999-01-01T00:00:00.000000Z"), 15, True, id="its clock is far ahead"),
        pytest.param(HELD._replace(seconds=60), 59.999, False, id="the holder's time counts, not ours"),
        pytest.param(HELD.released(), 0, True, id="released"),
        pytest.param(HELD._replace(holder="me"), 0, True, id="ours, although we never heard so"),
    ],
)
def test_who_may_take_it(record: Record, unseen: float, free: bool) -> None:
    assert may_take(record, observed_at=100.0, now=100.0 + unseen, identity="me") is free


def test_taking_counts_the_transitions_and_renewing_does_not() -> None:
    first = Record().taken("a", 15)
    assert (first.holder, first.seconds, first.transitions) == ("a", 15, 0)
    second = first.extended().released().taken("b", 20)
    assert (second.holder, second.seconds, second.transitions) == ("b", 20, 1)


def test_renewing_changes_the_record_and_keeps_when_it_was_acquired() -> None:
    renewed = HELD.extended()
    assert renewed != HELD
    assert renewed._replace(renewed=HELD.renewed) == HELD


def test_a_record_survives_the_api_server() -> None:
    assert Record.of({"spec": HELD.spec()}) == HELD
    assert Record.of({"metadata": {}}) == Record.of(None) == Record()


def test_a_holder_gives_up_before_others_may_take_over() -> None:
    longest_pause = 1.2 * DEFAULT.retry
    assert DEFAULT.patience() + longest_pause < DEFAULT.deadline < DEFAULT.lease, "and has time for a second try"
    assert all(DEFAULT.retry <= DEFAULT.pause() <= longest_pause for _ in range(100))
