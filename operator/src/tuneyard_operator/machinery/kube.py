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

from tuneyard_operator.machinery import metrics
from tuneyard_operator.machinery.errors import UNREACHABLE, ApiError
from tuneyard_operator.machinery.identity import Identity
from tuneyard_operator.machinery.objects import Json, is_deleting, name, namespace, uid, version
from tuneyard_operator.machinery.resources import Resource, Source

TIMEOUT_SECONDS: Final = 20
PAGE: Final = 250  # objects, half of what kubectl asks for: the memory for 500 Jobs would be mapped anew for each page
TIMEOUT: Final = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
LINE_BYTES: Final = 2 * 1024 * 1024  # of a watch: an object of any size that etcd takes (1.5 MiB)
METHODS: Final = {"create": "POST", "patch": "PATCH", "update": "PUT", "delete": "DELETE"}  # all other verbs are GET
HEADERS: Final = {
    "Accept": "application/json",
    # Compressing each page would cost both sides more time than it saves on the network.
    "Accept-Encoding": "identity",
}
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
# A peer that vanished is noticed within a minute, without any request.
KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class Page(NamedTuple):
    """One page of a list. `token` asks for the next page, and is empty on the last one."""

    items: list[Json]
    version: int  # of the whole list; a watch continues from here
    token: str


class Login(Protocol):
    """Where the API server is, and the credentials for it."""

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
    """The client. Each method raises ApiError when the API server refuses or cannot be reached.

    `resources`: the kinds that may be used, by name. It has to be created within an event loop.
    """

    def __init__(self, log_in: Callable[[], Login], resources: Mapping[str, Resource], identity: Identity) -> None:
        self.identity = identity
        self._log_in = log_in
        self._resources = resources
        login = log_in()
        self._credentials, self._valid_until = login.as_http_headers(), _valid_until(login)
        self._server = login.server.rstrip("/")
        # Connections are not limited, because each watch holds one; the number of workers limits the other requests.
        # Cleanup: a cancelled watch would otherwise stay open until the API server has closed its side too.
        connector = aiohttp.TCPConnector(
            limit=0, ssl=login.as_ssl_context(), socket_factory=_socket, enable_cleanup_closed=True
        )
        # trust_env would read a .netrc in a thread before each request, a quarter of the process's time. The login has
        # already read HTTPS_PROXY and NO_PROXY.
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=HEADERS | {"User-Agent": identity.field_manager},
            read_bufsize=LINE_BYTES,
            proxy=login.proxy_url,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """None where there is no such object."""
        try:
            return await self._call("get", kind, self._path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def exists(self, kind: str, namespace: str, name: str) -> bool:
        """Asks for the metadata alone: the contents of a Secret do not leave the API server."""
        try:
            await self._call("get", kind, self._path(kind, namespace, name), accept=METADATA_ONLY)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def list_page(self, source: Source, token: str = "") -> Page:
        """Raises ApiError 410 when `token` is too old; the list then has to start over."""
        query = source.query() | {"limit": str(PAGE)} | ({"continue": token} if token else {})
        found = await self._call("list", source.kind, self._path(source.kind, source.namespace), query)
        meta = found["metadata"]
        resource = self._resources[source.kind]
        typed = {"apiVersion": resource.api_version, "kind": resource.kind}  # the items of a list come without
        return Page([item | typed for item in found["items"]], version(found), meta.get("continue", ""))

    async def watch(self, source: Source, since: int, seconds: int) -> AsyncGenerator[Json]:
        """Yields the changes since a resourceVersion as {type, object} for some seconds; since 0: all objects first.

        Raises ApiError, also for an error that the API server reports within the stream: 410 means to list again.
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
                "watch", source.kind, self._path(source.kind, source.namespace), query, timeout=timeout
            )
            try:
                if answer.status >= 400:
                    raise _error(answer, await answer.read())
                async for line in answer.content:
                    event: Json = orjson.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        message = status.get("message", "")
                        raise ApiError(int(status.get("code", 500)), status.get("reason", "Error"), message)
                    yield event
            finally:
                answer.close()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(UNREACHABLE, type(error).__name__, str(error) or "no answer") from error

    async def apply(self, obj: Json, *, subresource: str = "", force: bool = True) -> Json:
        """Server-side apply: omitted fields are not owned; fields that were owned before and are omitted now go.

        Without `force` it is rejected (409) where another manager has set a field to another value.
        """
        path = self._path_of(obj) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": self.identity.field_manager, "force": str(force).lower()}
        return await self._call("patch", obj["kind"], path, query, obj)

    async def create(self, obj: Json) -> Json | None:
        """Returns None, and changes nothing, where an object of that name exists."""
        try:
            path = self._path(obj["kind"], namespace(obj))
            query = {"fieldManager": self.identity.field_manager}
            return await self._call("create", obj["kind"], path, query, obj)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return None
            raise

    async def replace(self, obj: Json) -> Json:
        """An update. It is rejected (409) where somebody has written since the resourceVersion in the object."""
        return await self._call("update", obj["kind"], self._path_of(obj), {}, obj)

    async def delete(self, obj: Json) -> Json | None:
        """Deletes this very object, not another one of its name. Returns the object as long as it still exists."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": self._resources[obj["kind"]].propagation,
            "preconditions": {"uid": uid(obj)},
        }
        try:
            left = await self._call("delete", obj["kind"], self._path_of(obj), {}, body)
        except ApiError as error:
            if error.status == 404:
                return None
            if error.status == 409:  # another object has its name by now, and the watch will report that
                return obj
            raise
        return left if is_deleting(left) else None

    def _path_of(self, obj: Json) -> str:
        return self._path(obj["kind"], namespace(obj), name(obj))

    def _path(self, kind: str, namespace: str, name: str = "") -> str:
        resource = self._resources[kind]
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{resource.root}{scope}/{resource.plural}" + (f"/{name}" if name else "")

    async def _call(
        self,
        verb: str,
        kind: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        accept: str = HEADERS["Accept"],
    ) -> Json:
        try:
            answer = await self._send(verb, kind, path, query, body, accept=accept)
            text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(UNREACHABLE, type(error).__name__, str(error) or "no answer") from error
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
        accept: str = HEADERS["Accept"],
    ) -> aiohttp.ClientResponse:
        """Returns the response with its body unread, and counts it by Kubernetes' verb."""
        content = "application/apply-patch+yaml" if verb == "patch" else "application/json"
        code = "unreachable"
        try:
            answer = await self._session.request(
                METHODS.get(verb, "GET"),
                f"{self._server}{path}",
                params=query,
                headers={"Content-Type": content, "Accept": accept, **self._authorization()},
                data=orjson.dumps(body) if body is not None else None,
                timeout=timeout,
            )
            code = str(answer.status)
            if answer.status == 401:  # the next request logs in again
                self._valid_until = -inf
            return answer
        finally:
            metrics.API_REQUESTS.labels(verb, self._resources[kind].plural, code).inc()

    def _authorization(self) -> dict[str, str]:
        """The token of a service account is renewed while it is in use."""
        if time.monotonic() > self._valid_until:
            login = self._log_in()
            self._credentials, self._valid_until = login.as_http_headers(), _valid_until(login)
        return self._credentials


def _valid_until(login: Login) -> float:
    """When to log in again, by the monotonic clock, which never jumps."""
    left = (login.expiration - datetime.now(UTC)).total_seconds() if login.expiration else inf
    return time.monotonic() + left


def _error(answer: aiohttp.ClientResponse, text: bytes) -> ApiError:
    after = answer.headers.get("Retry-After", "")
    seconds = float(after) if after.isdecimal() else None
    try:
        status: Any = orjson.loads(text)
        return ApiError(answer.status, status.get("reason") or "Error", status.get("message") or "", seconds)
    except (ValueError, AttributeError):
        return ApiError(answer.status, "Error", text[:500].decode(errors="replace"), seconds)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Opens a socket that notices when its peer is gone."""
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        opened.setsockopt(socket.IPPROTO_TCP, option, value)
    return opened
