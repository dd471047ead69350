"""Several pods that train together: they join before they start, and notice when one of them is lost.

The followers ask the leader over HTTP. It answers when all have asked, with the step of the checkpoint from which all
resume: the pods share no disk, and each could find another newest checkpoint in the store. The followers keep
asking, as a heartbeat. So a pod that is gone, or was replaced, is noticed in seconds; torch's own timeouts are minutes
long, because they must allow for slow steps.
"""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from tuneyard_api import names, reasons
from tuneyard_api.contracts.base import Contract
from tuneyard_trainer.runtime.errors import TryAgain

JOIN_TIMEOUT_SECONDS: Final = 600.0  # after that the pod ends, so that another job can have its GPUs
HEARTBEAT_SECONDS: Final = 2.0
LOST_AFTER_SECONDS: Final = 30.0  # a pod without a heartbeat for that long is lost
RESTART_ADVICE: Final = "Nothing to do: all nodes restart from the newest checkpoint."


class Group(NamedTuple):
    """The pods that train together, and this pod's place among them."""

    nodes: int = 1
    node_rank: int = 0
    leader_host: str = ""
    port: int = names.MASTER_PORT  # torchrun's, on the leader; the rendezvous is at the next port

    @property
    def is_leader(self) -> bool:
        return self.node_rank == 0


SINGLE_NODE: Final = Group()


def group_from(environ: Mapping[str, str], nodes: int) -> Group:
    """The group of a pod of an Indexed Job; outside a cluster, as in `tuneyard run`, one process does all the work."""
    if nodes == 1 or names.ENV_COMPLETION_INDEX not in environ:
        return SINGLE_NODE
    host, port = environ[names.ENV_MASTER_ADDR], int(environ[names.ENV_MASTER_PORT])
    return Group(nodes, int(environ[names.ENV_COMPLETION_INDEX]), host, port)


class JoinRequest(Contract):
    """What a follower asks of the leader: to join, and later to stay a member."""

    node_rank: int
    pod: str
    """A random name: a replaced pod has another one."""
    rendezvous: str = ""
    """The rendezvous that the pod is a member of; empty before it has joined one."""


class JoinAnswer(Contract):
    """The leader's answer when all have joined."""

    rendezvous: str
    step: int | None
    """The checkpoint from which all resume; None: they start at step 0."""


class Rendezvous:
    """The other pods of a group. This one is for a pod that trains alone; Leader and Follower are for several."""

    def __init__(self) -> None:
        self.lost = threading.Event()
        """Set when a pod is lost: all must restart."""

    def join(self, step: int | None, stopping: threading.Event) -> int | None:
        """Waits for all pods; returns the step of the checkpoint from which all resume, None for a new run.

        Args:
            step: of the newest checkpoint that this pod has found; the leader's counts.

        Raises:
            TryAgain: they did not join in time, or this pod was stopped.
        """
        return step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the heartbeats."""


def rendezvous_of(group: Group) -> Rendezvous:
    if group.nodes == 1:
        return Rendezvous()
    return Leader(group) if group.is_leader else Follower(group)


class Members:
    """The followers that have joined the leader, and the time of each one's last heartbeat. Thread-safe."""

    def __init__(self, nodes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rendezvous = secrets.token_hex(4)
        self.complete = threading.Event()
        self.broken = threading.Event()
        """Set when a member was replaced after all had joined."""
        self._expected = range(1, nodes)
        self._clock = clock
        self._members: dict[int, tuple[str, float]] = {}  # by node rank: the pod, its last heartbeat
        self._lock = threading.Lock()

    def join(self, request: JoinRequest) -> bool:
        """Registers a follower or its heartbeat; False where it is a member of another leader's rendezvous."""
        with self._lock:
            if request.rendezvous not in ("", self.rendezvous):
                return False
            known, _ = self._members.get(request.node_rank, (request.pod, 0.0))
            if known != request.pod and self.complete.is_set():
                self.broken.set()
            else:
                self._members[request.node_rank] = request.pod, self._clock()
            if len(self._members) == len(self._expected):
                self.complete.set()
            return True

    def missing(self) -> list[int]:
        """The node ranks that have not joined."""
        with self._lock:
            return [rank for rank in self._expected if rank not in self._members]

    def lost(self) -> list[int]:
        """The node ranks without a heartbeat for too long."""
        with self._lock:
            return [rank for rank, (_, at) in self._members.items() if self._clock() - at > LOST_AFTER_SECONDS]


class Leader(Rendezvous):
    """The followers, as the leader sees them."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._members = Members(group.nodes)
        self._group = group
        self._step: int | None = None
        self._closed = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def join(self, step: int | None, stopping: threading.Event) -> int | None:
        self._step = step
        self._server = ThreadingHTTPServer(("", self._group.port + 1), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="rendezvous", daemon=True).start()
        end = time.monotonic() + JOIN_TIMEOUT_SECONDS
        while not self._members.complete.wait(0.2):
            _check_waiting(stopping, end, f"pods {self._members.missing()} of {self._group.nodes}")
        threading.Thread(target=self._watch, name="heartbeats", daemon=True).start()
        return step

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _watch(self) -> None:
        while not self._closed.wait(1):
            if self._members.broken.is_set() or self._members.lost():
                self.lost.set()
                return

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        leader = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
                status, answer = leader.answer(JoinRequest.model_validate(query))
                body = (answer.model_dump_json(by_alias=True) if answer else "{}").encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Requests are not logged."""

        return Handler

    def answer(self, request: JoinRequest) -> tuple[HTTPStatus, JoinAnswer | None]:
        if not self._members.join(request):
            return HTTPStatus.GONE, None
        if self._members.broken.is_set() or not self._members.complete.is_set():
            return HTTPStatus.ACCEPTED, None  # ask again
        return HTTPStatus.OK, JoinAnswer(rendezvous=self._members.rendezvous, step=self._step)


class Follower(Rendezvous):
    """The leader, as a follower sees it."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group
        self._pod = secrets.token_hex(4)
        self._address = group.leader_host
        self._rendezvous = ""
        self._leader_replaced = threading.Event()
        self._closed = threading.Event()

    def join(self, step: int | None, stopping: threading.Event) -> int | None:
        end = time.monotonic() + JOIN_TIMEOUT_SECONDS
        while (answer := self._ask()) is None:
            _check_waiting(stopping, end, f"the leader of {self._group.nodes} pods, or others that it waits for,")
            stopping.wait(HEARTBEAT_SECONDS)
        self._rendezvous = answer.rendezvous
        threading.Thread(target=self._send_heartbeats, name="heartbeats", daemon=True).start()
        return answer.step

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _send_heartbeats(self) -> None:
        answered_at = time.monotonic()
        while not self._closed.wait(HEARTBEAT_SECONDS):
            if self._ask():
                answered_at = time.monotonic()
            if self._leader_replaced.is_set() or time.monotonic() - answered_at > LOST_AFTER_SECONDS:
                self.lost.set()
                return

    def _ask(self) -> JoinAnswer | None:
        """The leader's answer; None where it does not answer, or not all have joined."""
        request = JoinRequest(node_rank=self._group.node_rank, pod=self._pod, rendezvous=self._rendezvous)
        connection = HTTPConnection(self._address, self._group.port + 1, timeout=HEARTBEAT_SECONDS)
        try:
            connection.connect()
            address: str = connection.sock.getpeername()[0]
            connection.request("GET", f"/?{urlencode(request.wire())}")
            response = connection.getresponse()
            body = response.read()
            answer = JoinAnswer.model_validate_json(body) if response.status == HTTPStatus.OK else None
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            connection.close()
        if response.status == HTTPStatus.GONE:
            self._leader_replaced.set()
        if answer:
            self._address = address  # from now on the group does not depend on DNS
        return answer


def _check_waiting(stopping: threading.Event, end: float, missing: str) -> None:
    """Raises TryAgain when the pod was stopped or has waited for too long."""
    if stopping.is_set():
        raise TryAgain(reasons.PREEMPTED, "The pod was stopped while it waited for the others.", RESTART_ADVICE)
    if time.monotonic() > end:
        raise TryAgain(
            reasons.WAITING_FOR_NODES,
            f"{missing} did not join within {JOIN_TIMEOUT_SECONDS / 60:.0f} minutes",
            "Are there nodes with room for all pods at once? A Job in a queue (queueName) starts only then. Where a "
            "NetworkPolicy denies traffic by default, the pods must be allowed to reach each other.",
        )
