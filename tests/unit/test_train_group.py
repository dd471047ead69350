"""Pods that train together: they meet, agree on where to begin, and notice who is lost."""

import socket as socket_module
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from socket import socket
from typing import Any

import pytest

from tuneyard_api import reasons
from tuneyard_trainer.runtime import rendezvous as module
from tuneyard_trainer.runtime.errors import TryAgain
from tuneyard_trainer.runtime.rendezvous import (
    ALONE,
    SILENCE_SECONDS,
    Group,
    Guest,
    Host,
    Meeting,
    Peers,
    group_from,
    peers_of,
)

GOING_ON = threading.Event()  # nobody stops the pods
SECONDS = 10.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_SECONDS", 0.05)


@pytest.fixture
def port() -> int:
    """The next one is free, which is the one that is listened at."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1]) - 1


@pytest.fixture
def open_peers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pod(port: int, number: int, nodes: int = 2) -> Group:
    return Group(nodes, number, "127.0.0.1", port)


def meet(*peers: tuple[Peers, int | None]) -> list[int | None]:
    """All come at once, each with its newest checkpoint; returns from where each goes on."""
    with ThreadPoolExecutor(len(peers)) as pool:
        running = [pool.submit(each.agree, step, GOING_ON) for each, step in peers]
        return [each.result(SECONDS) for each in running]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestGroup:
    ENVIRONMENT = {"JOB_COMPLETION_INDEX": "2", "MASTER_ADDR": "x-0.x", "MASTER_PORT": "29500"}

    def test_is_told_by_the_environment(self) -> None:
        assert group_from(self.ENVIRONMENT, 3) == Group(3, 2, "x-0.x", 29500)

    def test_without_a_cluster_one_machine_does_it_all(self) -> None:
        assert group_from({}, 3) == ALONE
        assert group_from(self.ENVIRONMENT, 1) == ALONE

    def test_the_first_one_leads(self) -> None:
        assert [Group(3, number).leads for number in range(3)] == [True, False, False]
        assert ALONE.leads


class TestMeeting:
    def test_is_complete_when_all_others_have_come(self) -> None:
        meeting = Meeting(3)
        assert meeting.missing() == [1, 2]
        meeting.enter(2, "b", "")
        meeting.enter(2, "b", "")
        assert not meeting.complete.is_set()
        assert meeting.missing() == [1]
        meeting.enter(1, "a", "")
        assert meeting.complete.is_set()

    def test_before_it_begins_a_pod_may_be_replaced(self) -> None:
        meeting = Meeting(3)
        meeting.enter(1, "a", "")
        meeting.enter(1, "again", "")
        meeting.enter(2, "b", "")
        meeting.enter(1, "again", "")
        assert not meeting.broken.is_set()

    def test_afterwards_a_replaced_pod_breaks_it(self) -> None:
        meeting = Meeting(2)
        meeting.enter(1, "a", "")
        meeting.enter(1, "again", "")
        assert meeting.broken.is_set()

    def test_who_takes_part_in_another_one_is_sent_away(self) -> None:
        meeting = Meeting(2)
        assert not meeting.enter(1, "a", "another")
        assert meeting.missing() == [1]
        assert meeting.enter(1, "a", "")
        assert meeting.enter(1, "a", meeting.name)

    def test_who_is_silent_for_too_long_is_named(self) -> None:
        clock = Clock()
        meeting = Meeting(3, clock)
        meeting.enter(1, "a", "")
        clock.now += SILENCE_SECONDS
        meeting.enter(2, "b", "")
        assert meeting.silent() == []
        clock.now += 1
        assert meeting.silent() == [1]


class TestPeers:
    def test_a_pod_that_is_alone_waits_for_nobody(self) -> None:
        with peers_of(ALONE) as peers:
            assert peers.agree(7, GOING_ON) == 7
            assert not peers.lost.is_set()

    @pytest.mark.parametrize("step", [None, 40])
    def test_all_go_on_from_the_checkpoint_of_the_first(
        self, port: int, open_peers: ExitStack, step: int | None
    ) -> None:
        pods = [open_peers.enter_context(peers_of(pod(port, number, 3))) for number in range(3)]
        assert meet((pods[0], step), (pods[1], 60), (pods[2], None)) == [step] * 3
        assert not any(each.lost.is_set() for each in pods)

    def test_a_pod_that_comes_back_as_another_breaks_the_group(self, port: int, open_peers: ExitStack) -> None:
        host, guest = (open_peers.enter_context(peers_of(pod(port, number))) for number in range(2))
        meet((host, None), (guest, None))
        stopping = threading.Event()
        with Guest(pod(port, 1)) as replacement, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(replacement.agree, None, stopping)
            assert host.lost.wait(SECONDS)
            assert not waiting.done(), "it goes on only with the next first pod"
            stopping.set()
            with pytest.raises(TryAgain) as caught:
                waiting.result(SECONDS)
        assert caught.value.reason == reasons.PREEMPTED

    def test_another_first_pod_breaks_the_group(self, port: int, open_peers: ExitStack) -> None:
        guest = open_peers.enter_context(peers_of(pod(port, 1)))
        with Host(pod(port, 0)) as host:
            meet((host, None), (guest, None))
        other = open_peers.enter_context(Host(pod(port, 0)))
        newcomer = open_peers.enter_context(Guest(pod(port, 1)))
        meet((other, None), (newcomer, None))
        assert guest.lost.wait(SECONDS)
        assert not other.lost.is_set()

    @pytest.mark.parametrize("gone", [0, 1])
    def test_a_pod_that_is_gone_is_missed(
        self, port: int, open_peers: ExitStack, monkeypatch: pytest.MonkeyPatch, gone: int
    ) -> None:
        monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
        left = open_peers.enter_context(peers_of(pod(port, 1 - gone)))
        with peers_of(pod(port, gone)) as doomed:
            meet((left, None), (doomed, None))
            assert not left.lost.wait(1), "while both are there nobody is missed"
        assert left.lost.wait(SECONDS)

    def test_a_name_server_that_is_away_breaks_no_group(
        self, port: int, open_peers: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
        host = open_peers.enter_context(Host(pod(port, 0)))
        guest = open_peers.enter_context(Guest(Group(2, 1, "localhost", port)))
        meet((host, None), (guest, None))
        look_up = socket_module.getaddrinfo

        def numbers_only(name: str, *rest: Any, **more: Any) -> Any:
            if name == "localhost":
                raise socket_module.gaierror(name)
            return look_up(name, *rest, **more)

        monkeypatch.setattr(socket_module, "getaddrinfo", numbers_only)
        assert not guest.lost.wait(1.5)

    @pytest.mark.parametrize("number", [0, 1])
    def test_who_waits_in_vain_says_so_and_is_not_charged(
        self, port: int, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.3)
        with peers_of(pod(port, number)) as peers, pytest.raises(TryAgain, match="did not come") as caught:
            peers.agree(None, GOING_ON)
        assert caught.value.reason == reasons.WAITING_FOR_NODES

    @pytest.mark.parametrize("number", [0, 1])
    def test_who_waits_can_be_stopped(self, port: int, number: int) -> None:
        stopping = threading.Event()
        stopping.set()
        with peers_of(pod(port, number)) as peers, pytest.raises(TryAgain) as caught:
            peers.agree(None, stopping)
        assert caught.value.reason == reasons.PREEMPTED
