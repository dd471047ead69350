"""Several pods that train together: they meet before they begin, and learn when one of them is lost.

The first pod is asked by the others over HTTP. It answers when all have asked, with the step of the checkpoint from
which all go on: they have no disk in common, and each could find another newest one in the store. From then on they go
on asking. So a pod that is gone, or came back as another one, is noticed in seconds; torch's own timeouts are minutes
long, because they must allow for slow steps.
"""

import json
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
from tuneyard_trainer.runtime.errors import TryAgain

Json = dict[str, Any]

WAIT_SECONDS: Final = 600.0  # for the others; then the pod ends, so that somebody else can have its GPUs
ASK_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 30.0  # without a word for so long, a pod is lost
AGAIN: Final = "Nothing to do: all nodes begin again from the newest checkpoint."


class Group(NamedTuple):
    """Which pods train together, and which of them this one is."""

    nodes: int = 1
    number: int = 0
    host: str = ""  # the first one's
    port: int = names.MASTER_PORT  # of torchrun on the first one; the one after it is where the pods meet

    @property
    def leads(self) -> bool:
        return self.number == 0


ALONE: Final = Group()


def group_from(environ: Mapping[str, str], nodes: int) -> Group:
    """Of a pod of an Indexed Job; anywhere else, as in `tuneyard run`, all is done by one."""
    if nodes == 1 or names.ENV_COMPLETION_INDEX not in environ:
        return ALONE
    host, port = environ[names.ENV_MASTER_ADDR], int(environ[names.ENV_MASTER_PORT])
    return Group(nodes, int(environ[names.ENV_COMPLETION_INDEX]), host, port)


class Peers:
    """The other pods. Here there are none."""

    def __init__(self) -> None:
        self.lost = threading.Event()  # all must begin again

    def agree(self, step: int | None, stopping: threading.Event) -> int | None:
        """Waits for all others; returns the step of the checkpoint from which all go on, None for a new run.

        Args:
            step: the newest checkpoint's; the first pod's counts.

        Raises:
            TryAgain: they did not come in time, or this pod is stopped.
        """
        return step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nobody is asked, and nobody is answered, any more."""


def peers_of(group: Group) -> Peers:
    if group.nodes == 1:
        return Peers()
    return Host(group) if group.leads else Guest(group)


class Meeting:
    """Who has come to the first pod, and when each was heard last. Thread-safe."""

    def __init__(self, nodes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = secrets.token_hex(4)
        self.complete = threading.Event()
        self.broken = threading.Event()  # one who was here has been replaced
        self._others = range(1, nodes)
        self._clock = clock
        self._guests: dict[int, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def enter(self, number: int, guest: str, meeting: str) -> bool:
        """A pod asks to go on. `meeting`: the one that it is already part of, or empty.

        Returns False where it takes part in another meeting: this first pod is not the one that it began with.
        """
        with self._lock:
            if meeting not in ("", self.name):
                return False
            known, _ = self._guests.get(number, (guest, 0.0))
            if known != guest and self.complete.is_set():
                self.broken.set()
            else:
                self._guests[number] = guest, self._clock()
            if len(self._guests) == len(self._others):
                self.complete.set()
            return True

    def missing(self) -> list[int]:
        with self._lock:
            return [each for each in self._others if each not in self._guests]

    def silent(self) -> list[int]:
        """Who has not been heard for too long."""
        with self._lock:
            return [each for each, (_, at) in self._guests.items() if self._clock() - at > SILENCE_SECONDS]


class Host(Peers):
    """The others, as the first pod sees them."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._meeting = Meeting(group.nodes)
        self._group = group
        self._step: int | None = None
        self._over = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def agree(self, step: int | None, stopping: threading.Event) -> int | None:
        self._step = step
        self._server = ThreadingHTTPServer(("", self._group.port + 1), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="meeting", daemon=True).start()
        end = time.monotonic() + WAIT_SECONDS
        while not self._meeting.complete.wait(0.2):
            _go_on_waiting(stopping, end, f"pods {self._meeting.missing()} of {self._group.nodes}")
        threading.Thread(target=self._watch, name="peers", daemon=True).start()
        return step

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _watch(self) -> None:
        while not self._over.wait(1):
            if self._meeting.broken.is_set() or self._meeting.silent():
                self.lost.set()
                return

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
                status, answer = host.answer(int(asked["number"]), asked["guest"], asked["meeting"])
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Being asked is not worth a log line."""

        return Handler

    def answer(self, number: int, guest: str, meeting: str) -> tuple[HTTPStatus, Json]:
        if not self._meeting.enter(number, guest, meeting):
            return HTTPStatus.GONE, {}
        if self._meeting.broken.is_set() or not self._meeting.complete.is_set():
            return HTTPStatus.ACCEPTED, {}  # ask again
        return HTTPStatus.OK, {"meeting": self._meeting.name, "step": self._step}


class Guest(Peers):
    """The first pod, as one of the others sees it."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group
        self._name = secrets.token_hex(4)
        self._address = group.host
        self._meeting = ""
        self._replaced = threading.Event()  # there is another first pod
        self._over = threading.Event()

    def agree(self, step: int | None, stopping: threading.Event) -> int | None:
        end = time.monotonic() + WAIT_SECONDS
        while (answer := self._ask()) is None:
            _go_on_waiting(stopping, end, f"the first of {self._group.nodes} pods, or others that it waits for,")
            stopping.wait(ASK_SECONDS)
        self._meeting = answer["meeting"]
        threading.Thread(target=self._follow, name="peers", daemon=True).start()
        agreed: int | None = answer["step"]
        return agreed

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _follow(self) -> None:
        heard = time.monotonic()
        while not self._over.wait(ASK_SECONDS):
            if self._ask():
                heard = time.monotonic()
            if self._replaced.is_set() or time.monotonic() - heard > SILENCE_SECONDS:
                self.lost.set()
                return

    def _ask(self) -> Json | None:
        """None: not yet, or not there."""
        query = urlencode({"number": self._group.number, "guest": self._name, "meeting": self._meeting})
        connection = HTTPConnection(self._address, self._group.port + 1, timeout=ASK_SECONDS)
        try:
            connection.connect()
            address: str = connection.sock.getpeername()[0]
            connection.request("GET", f"/?{query}")
            response = connection.getresponse()
            answer: Json = json.load(response)
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            connection.close()
        if response.status == HTTPStatus.GONE:
            self._replaced.set()
        if response.status != HTTPStatus.OK:
            return None
        self._address = address  # a name server that is away for a while breaks no group
        return answer


def _go_on_waiting(stopping: threading.Event, end: float, missing: str) -> None:
    if stopping.is_set():
        raise TryAgain(reasons.PREEMPTED, "The pod was stopped while it waited for the others.", AGAIN)
    if time.monotonic() > end:
        raise TryAgain(
            reasons.WAITING_FOR_NODES,
            f"{missing} did not come within {WAIT_SECONDS / 60:.0f} minutes",
            "Are there nodes with room for all pods at once? A queue (queueName) begins only then. Where a "
            "NetworkPolicy denies traffic by default, the pods must be allowed to reach each other.",
        )
