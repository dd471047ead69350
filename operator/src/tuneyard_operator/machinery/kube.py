"""The API server, with objects as plain dicts. The only module that talks to it."""

import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from math import inf
from typing import Any, Final, NamedTuple, Protocol

import aiohttp
import orjson

from tuneyard_api.names import FIELD_MANAGER, GROUP, VERSION
from tuneyard_operator.machinery import metrics
from tuneyard_operator.machinery.errors import UNREACHABLE, ApiError
from tuneyard_operator.machinery.objects import Json, is_deleting, name, namespace, uid, version

TIMEOUT_SECONDS: Final = 20
PAGE: Final = 500  # objects; what kubectl and client-go ask for
TIMEOUT: Final = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
LINE_BYTES: Final = 2 * 1024 * 1024  # of a watch: an object of any size that etcd takes (1.5 MiB)
METHODS: Final = {"create": "POST", "patch": "PATCH", "update": "PUT", "delete": "DELETE"}  # all other verbs are GET
HEADERS: Final = {
    "User-Agent": FIELD_MANAGER,  # so that audit logs name us
    "Accept": "application/json",
    # The API server would compress each page: that costs both more time than it saves on the way.
    "Accept-Encoding": "identity",
}
# A peer that vanished without a word is noticed within a minute, and no request is made for that.
KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class Resource(NamedTuple):
    """Where the objects of a kind are found."""

    root: str
    plural: str
    propagation: str = "Background"


RESOURCES: Final = {
    "ConfigMap": Resource("/api/v1", "configmaps"),
    "Event": Resource("/api/v1", "events"),
    "Pod": Resource("/api/v1", "pods"),
    "Service": Resource("/api/v1", "services"),
    # Gone only when their pods are gone: what comes next must not meet them.
    "Job": Resource("/apis/batch/v1", "jobs", "Foreground"),
    "Deployment": Resource("/apis/apps/v1", "deployments", "Foreground"),
    "Lease": Resource("/apis/coordination.k8s.io/v1", "leases"),
    "FineTuneJob": Resource(f"/apis/{GROUP}/{VERSION}", "finetunejobs"),
    "ModelServer": Resource(f"/apis/{GROUP}/{VERSION}", "modelservers"),
}


class Source(NamedTuple):
    """Which objects of a kind are meant; an empty namespace means all of them."""

    kind: str
    namespace: str = ""
    labels: str = ""
    fields: str = ""

    def query(self) -> dict[str, str]:
        chosen = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {key: value for key, value in chosen.items() if value}


class Page(NamedTuple):
    """A part of a list; `rest` asks for the next one and is empty on the last."""

    items: list[Json]
    version: int  # of the whole list; a watch goes on from here
    rest: str


class Login(Protocol):
    """Where the API server is, and who we are there."""

    @property
    def server(self) -> str: ...

    @property
    def proxy_url(self) -> str | None:
        """The proxy that leads to the server; None: it is reached directly."""
        ...

    @property
    def expiration(self) -> datetime | None:
        """When to log in again; None: never."""
        ...

    def as_ssl_context(self) -> ssl.SSLContext: ...

    def as_http_headers(self) -> dict[str, str]: ...


class Kube:
    """Each method raises ApiError when the API server refuses or cannot be reached. Made within an event loop."""

    def __init__(self, log_in: Callable[[], Login]) -> None:
        self._log_in = log_in
        login = log_in()
        self._credentials, self._holds_until = login.as_http_headers(), _holds_until(login)
        self._server = login.server.rstrip("/")
        # A watch holds a connection, so they are not limited; the queue's workers are.
        # Cleanup: else a watch that was ended stays open until the API server, too, has said goodbye to it.
        connector = aiohttp.TCPConnector(
            limit=0, ssl=login.as_ssl_context(), socket_factory=_socket, enable_cleanup_closed=True
        )
        # trust_env: else a thread looks for a .netrc before each request, a quarter of this process's time. The login
        # has already looked up HTTPS_PROXY and NO_PROXY.
        self._session = aiohttp.ClientSession(
            connector=connector, headers=HEADERS, read_bufsize=LINE_BYTES, proxy=login.proxy_url, trust_env=False
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """None where there is no such object."""
        try:
            return await self._call("get", kind, _path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list_page(self, source: Source, rest: str = "") -> Page:
        """Raises ApiError 410 when `rest` is too old; the list then has to begin anew."""
        query = source.query() | {"limit": str(PAGE)} | ({"continue": rest} if rest else {})
        found = await self._call("list", source.kind, _path(source.kind, source.namespace), query)
        meta = found["metadata"]
        return Page([_typed(each, source.kind) for each in found["items"]], version(found), meta.get("continue", ""))

    async def watch(self, source: Source, since: int, seconds: int) -> AsyncGenerator[Json]:
        """What changed since that resourceVersion, as {type, object}, for so many seconds; since 0: what is there, too.

        Raises ApiError, also when the API server says so within the stream: 410 means to list again.
        """
        query = source.query() | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(since),
            "timeoutSeconds": str(seconds),
        }
        timeout = aiohttp.ClientTimeout(total=seconds + TIMEOUT_SECONDS, sock_connect=TIMEOUT_SECONDS)
        try:
            answer = await self._send(
                "watch", source.kind, _path(source.kind, source.namespace), query, timeout=timeout
            )
            try:
                if answer.status >= 400:
                    raise _error(answer, await answer.read())
                async for line in answer.content:
                    event: Json = orjson.loads(line)
                    if event["type"] == "ERROR":
                        said = event["object"]
                        raise ApiError(int(said.get("code", 500)), said.get("reason", "Error"), said.get("message", ""))
                    yield event
            finally:
                answer.close()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(UNREACHABLE, type(error).__name__, str(error)) from error

    async def apply(self, thing: Json, *, subresource: str = "", force: bool = True) -> Json:
        """Server-side apply: what we leave out is not ours, what we left out since the last time goes.

        Without `force` it is refused (409) where somebody else has set a field to something else.
        """
        path = _path(thing["kind"], namespace(thing), name(thing)) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        return await self._call("patch", thing["kind"], path, query, thing)

    async def create(self, thing: Json) -> Json | None:
        """None, and nothing is done, where it is there already."""
        try:
            path = _path(thing["kind"], namespace(thing))
            return await self._call("create", thing["kind"], path, {"fieldManager": FIELD_MANAGER}, thing)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return None
            raise

    async def replace(self, thing: Json) -> Json:
        """Refused with 409 where somebody has written since the resourceVersion that it carries."""
        kind = thing["kind"]
        return await self._call("update", kind, _path(kind, namespace(thing), name(thing)), {}, thing)

    async def delete(self, thing: Json) -> Json | None:
        """Just this object, not another one of its name; the answer is the object as long as it is there."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": RESOURCES[thing["kind"]].propagation,
            "preconditions": {"uid": uid(thing)},
        }
        try:
            path = _path(thing["kind"], namespace(thing), name(thing))
            left = await self._call("delete", thing["kind"], path, {}, body)
        except ApiError as error:
            if error.status == 404:
                return None
            if error.status == 409:  # another one has its name by now, and the watch will tell
                return thing
            raise
        return left if is_deleting(left) else None

    async def _call(
        self, verb: str, kind: str, path: str, query: Mapping[str, str] | None = None, body: Json | None = None
    ) -> Json:
        try:
            answer = await self._send(verb, kind, path, query, body)
            text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(UNREACHABLE, type(error).__name__, str(error)) from error
        if answer.status >= 400:
            raise _error(answer, text)
        parsed: Json = orjson.loads(text)
        return parsed

    async def _send(
        self,
        verb: str,
        kind: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
    ) -> aiohttp.ClientResponse:
        """The response, its body not yet read; counted by Kubernetes' verb."""
        content = "application/apply-patch+yaml" if verb == "patch" else "application/json"
        code = "unreachable"
        try:
            answer = await self._session.request(
                METHODS.get(verb, "GET"),
                f"{self._server}{path}",
                params=query,
                headers={"Content-Type": content, **self._authorization()},
                data=orjson.dumps(body) if body is not None else None,
                timeout=timeout,
            )
            code = str(answer.status)
            if answer.status == 401:  # the next request logs in again
                self._holds_until = -inf
            return answer
        finally:
            metrics.API_REQUESTS.labels(verb, RESOURCES[kind].plural, code).inc()

    def _authorization(self) -> dict[str, str]:
        """A service account's token changes while it is in use."""
        if time.monotonic() > self._holds_until:
            login = self._log_in()
            self._credentials, self._holds_until = login.as_http_headers(), _holds_until(login)
        return self._credentials


def _holds_until(login: Login) -> float:
    """By the monotonic clock, which never jumps."""
    left = (login.expiration - datetime.now(UTC)).total_seconds() if login.expiration else inf
    return time.monotonic() + left


def _path(kind: str, namespace: str, name: str = "") -> str:
    resource = RESOURCES[kind]
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{resource.root}{place}/{resource.plural}" + (f"/{name}" if name else "")


def _typed(thing: Json, kind: str) -> Json:
    """Items of a list come without their kind."""
    return thing | {"kind": kind}


def _error(answer: aiohttp.ClientResponse, text: bytes) -> ApiError:
    after = answer.headers.get("Retry-After", "")
    seconds = float(after) if after.isdecimal() else None
    try:
        said: Any = orjson.loads(text)
        return ApiError(answer.status, said.get("reason") or "Error", said.get("message") or "", seconds)
    except (ValueError, AttributeError):
        return ApiError(answer.status, "Error", text[:500].decode(errors="replace"), seconds)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices when its peer is gone."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
