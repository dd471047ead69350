"""Pods that train together: they join, agree on a checkpoint, and notice a lost pod."""

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
    LOST_AFTER_SECONDS,
    SINGLE_NODE,
    Follower,
    Group,
    JoinRequest,
    Leader,
    Members,
    Rendezvous,
    group_from,
    rendezvous_of,
)

NOT_STOPPED = threading.Event()
SECONDS = 10.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)


@pytest.fixture
def port() -> int:
    """The port before a free one: the rendezvous listens at the next port."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1]) - 1


@pytest.fixture
def open_pods() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def group(port: int, node_rank: int, nodes: int = 2) -> Group:
    return Group(nodes, node_rank, "127.0.0.1", port)


def join_all(*pods: tuple[Rendezvous, int | None]) -> list[int | None]:
    """All join at once, each with its newest checkpoint; returns the step from which each resumes."""
    with ThreadPoolExecutor(len(pods)) as pool:
        running = [pool.submit(pod.join, step, NOT_STOPPED) for pod, step in pods]
        return [future.result(SECONDS) for future in running]


def request(node_rank: int, pod: str, rendezvous: str = "") -> JoinRequest:
    return JoinRequest(node_rank=node_rank, pod=pod, rendezvous=rendezvous)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestGroup:
    ENVIRONMENT = {"JOB_COMPLETION_INDEX": "2", "MASTER_ADDR": "x-0.x", "MASTER_PORT": "29500"}

    def test_comes_from_the_environment(self) -> None:
        assert group_from(self.ENVIRONMENT, 3) == Group(3, 2, "x-0.x", 29500)

    def test_outside_a_cluster_there_is_one_node(self) -> None:
        assert group_from({}, 3) == SINGLE_NODE
        assert group_from(self.ENVIRONMENT, 1) == SINGLE_NODE

    def test_rank_0_is_the_leader(self) -> None:
        assert [Group(3, rank).is_leader for rank in range(3)] == [True, False, False]
        assert SINGLE_NODE.is_leader


class TestMembers:
    def test_complete_when_all_have_joined(self) -> None:
        members = Members(3)
        assert members.missing() == [1, 2]
        members.join(request(2, "b"))
        members.join(request(2, "b"))
        assert not members.complete.is_set()
        assert members.missing() == [1]
        members.join(request(1, "a"))
        assert members.complete.is_set()

    def test_pod_may_be_replaced_before_the_start(self) -> None:
        members = Members(3)
        members.join(request(1, "a"))
        members.join(request(1, "replacement"))
        members.join(request(2, "b"))
        members.join(request(1, "replacement"))
        assert not members.broken.is_set()

    def test_pod_replaced_later_breaks_the_group(self) -> None:
        members = Members(2)
        members.join(request(1, "a"))
        members.join(request(1, "replacement"))
        assert members.broken.is_set()

    def test_member_of_another_rendezvous_is_rejected(self) -> None:
        members = Members(2)
        assert not members.join(request(1, "a", "another"))
        assert members.missing() == [1]
        assert members.join(request(1, "a"))
        assert members.join(request(1, "a", members.rendezvous))

    def test_lost_without_heartbeat(self) -> None:
        clock = Clock()
        members = Members(3, clock)
        members.join(request(1, "a"))
        clock.now += LOST_AFTER_SECONDS
        members.join(request(2, "b"))
        assert members.lost() == []
        clock.now += 1
        assert members.lost() == [1]


class TestRendezvous:
    def test_single_pod_does_not_wait(self) -> None:
        with rendezvous_of(SINGLE_NODE) as rendezvous:
            assert rendezvous.join(7, NOT_STOPPED) == 7
            assert not rendezvous.lost.is_set()

    @pytest.mark.parametrize("step", [None, 40])
    def test_followers_resume_from_the_leaders_checkpoint(
        self, port: int, open_pods: ExitStack, step: int | None
    ) -> None:
        pods = [open_pods.enter_context(rendezvous_of(group(port, rank, 3))) for rank in range(3)]
        assert join_all((pods[0], step), (pods[1], 60), (pods[2], None)) == [step] * 3
        assert not any(pod.lost.is_set() for pod in pods)

    def test_replaced_follower_breaks_the_group(self, port: int, open_pods: ExitStack) -> None:
        leader, follower = (open_pods.enter_context(rendezvous_of(group(port, rank))) for rank in range(2))
        join_all((leader, None), (follower, None))
        stopping = threading.Event()
        with Follower(group(port, 1)) as replacement, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(replacement.join, None, stopping)
            assert leader.lost.wait(SECONDS)
            assert not waiting.done(), "it joins the next leader only"
            stopping.set()
            with pytest.raises(TryAgain) as caught:
                waiting.result(SECONDS)
        assert caught.value.reason == reasons.PREEMPTED

    def test_replaced_leader_breaks_the_group(self, port: int, open_pods: ExitStack) -> None:
        follower = open_pods.enter_context(rendezvous_of(group(port, 1)))
        with Leader(group(port, 0)) as leader:
            join_all((leader, None), (follower, None))
        next_leader = open_pods.enter_context(Leader(group(port, 0)))
        newcomer = open_pods.enter_context(Follower(group(port, 1)))
        join_all((next_leader, None), (newcomer, None))
        assert follower.lost.wait(SECONDS)
        assert not next_leader.lost.is_set()

    @pytest.mark.parametrize("gone", [0, 1])
    def test_vanished_pod_is_noticed(
        self, port: int, open_pods: ExitStack, monkeypatch: pytest.MonkeyPatch, gone: int
    ) -> None:
        monkeypatch.setattr(module, "LOST_AFTER_SECONDS", 0.5)
        left = open_pods.enter_context(rendezvous_of(group(port, 1 - gone)))
        with rendezvous_of(group(port, gone)) as doomed:
            join_all((left, None), (doomed, None))
            assert not left.lost.wait(1), "no pod is lost while both are there"
        assert left.lost.wait(SECONDS)

    def test_dns_may_fail_after_the_start(
        self, port: int, open_pods: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LOST_AFTER_SECONDS", 0.5)
        leader = open_pods.enter_context(Leader(group(port, 0)))
        follower = open_pods.enter_context(Follower(Group(2, 1, "localhost", port)))
        join_all((leader, None), (follower, None))
        look_up = socket_module.getaddrinfo

        def addresses_only(name: str, *rest: Any, **more: Any) -> Any:
            if name == "localhost":
                raise socket_module.gaierror(name)
            return look_up(name, *rest, **more)

        monkeypatch.setattr(socket_module, "getaddrinfo", addresses_only)
        assert not follower.lost.wait(1.5)

    @pytest.mark.parametrize("node_rank", [0, 1])
    def test_wait_has_a_timeout(self, port: int, monkeypatch: pytest.MonkeyPatch, node_rank: int) -> None:
        monkeypatch.setattr(module, "JOIN_TIMEOUT_SECONDS", 0.3)
        with rendezvous_of(group(port, node_rank)) as pod, pytest.raises(TryAgain, match="did not join") as caught:
            pod.join(None, NOT_STOPPED)
        assert caught.value.reason == reasons.WAITING_FOR_NODES

    @pytest.mark.parametrize("node_rank", [0, 1])
    def test_waiting_pod_can_be_stopped(self, port: int, node_rank: int) -> None:
        stopping = threading.Event()
        stopping.set()
        with rendezvous_of(group(port, node_rank)) as pod, pytest.raises(TryAgain) as caught:
            pod.join(None, stopping)
        assert caught.value.reason == reasons.PREEMPTED
