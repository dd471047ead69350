"""The API server as the chaos tests reach it themselves: directly, not through the proxy."""

import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final, NamedTuple, Self

import aiohttp
import yaml

Json = dict[str, Any]

RESOURCES: Final = {
    "FineTuneJob": "/apis/tuneyard.dev/v1alpha1/{}finetunejobs",
    "ModelServer": "/apis/tuneyard.dev/v1alpha1/{}modelservers",
    "Job": "/apis/batch/v1/{}jobs",
    "Deployment": "/apis/apps/v1/{}deployments",
    "Pod": "/api/v1/{}pods",
    "Service": "/api/v1/{}services",
    "ConfigMap": "/api/v1/{}configmaps",
}
MERGE: Final = "application/merge-patch+json"
AWAY: Final = (aiohttp.ClientError, TimeoutError, OSError)  # what a call raises while there is no API server


def path_of(kind: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Of an object; of all of a namespace without a name, and of the whole cluster without a namespace."""
    path = RESOURCES[kind].format(f"namespaces/{namespace}/" if namespace else "")
    return "/".join(part for part in (path, name, subresource) if part)


class Access(NamedTuple):
    """What a kubeconfig says about its current context."""

    url: str
    tls: ssl.SSLContext
    token: str

    @classmethod
    def of(cls, kubeconfig: Path) -> Self:
        cluster, user = _current(kubeconfig)
        tls = ssl.create_default_context(cadata=_pem(cluster, "certificate-authority"))
        if "client-certificate" in user or "client-certificate-data" in user:
            _load_identity(tls, _pem(user, "client-certificate"), _pem(user, "client-key"))
        return cls(cluster["server"], tls, user.get("token", ""))

    @classmethod
    def for_others(cls, kubeconfig: Path) -> Self:
        """The same API server; who asks shows a token of their own."""
        cluster, _ = _current(kubeconfig)
        return cls(cluster["server"], ssl.create_default_context(cadata=_pem(cluster, "certificate-authority")), "")


def _current(kubeconfig: Path) -> tuple[Json, Json]:
    """(cluster, user)"""
    config = yaml.safe_load(kubeconfig.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    return _named(config["clusters"], context["cluster"])["cluster"], _named(config["users"], context["user"])["user"]


def _named(entries: list[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)


def _pem(section: Json, key: str) -> str:
    inline = section.get(f"{key}-data")
    return base64.b64decode(inline).decode() if inline else Path(section[key]).read_text()


def _load_identity(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    with NamedTemporaryFile("w") as file:  # ssl takes client certificates from files only
        file.write(certificate + "\n" + key)
        file.flush()
        tls.load_cert_chain(file.name)


class Refused(Exception):
    """The API server's answer was not a good one."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Raises Refused where the API server refuses, and what AWAY has where it cannot be reached."""

    def __init__(self, access: Access) -> None:
        headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._session = aiohttp.ClientSession(
            access.url, headers=headers, connector=aiohttp.TCPConnector(ssl=access.tls, limit=0)
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        try:
            return await self.call("GET", path_of(kind, namespace, name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str = "", labels: str = "") -> Json:
        return await self.call("GET", path_of(kind, namespace), {"labelSelector": labels})

    async def create(self, thing: Json) -> Json:
        return await self.call("POST", path_of(thing["kind"], thing["metadata"]["namespace"]), body=thing)

    async def patch(self, kind: str, namespace: str, name: str, change: Json, subresource: str = "") -> Json:
        path = path_of(kind, namespace, name, subresource)
        return await self.call("PATCH", path, body=change, content_type=MERGE)

    async def delete(self, kind: str, namespace: str, name: str, **options: Any) -> None:
        """Does nothing where it is gone."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            await self.call("DELETE", path_of(kind, namespace, name), body=body)
        except Refused as refused:
            if refused.status not in (404, 409):
                raise

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        headers = {"Content-Type": content_type}
        data = json.dumps(body) if body is not None else None
        timeout = aiohttp.ClientTimeout(total=15)
        async with self._session.request(
            method, path, params=query, data=data, headers=headers, timeout=timeout
        ) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise Refused(answer.status, text)
            parsed: Json = json.loads(text)
            return parsed

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Json]:
        """The events as the API server sends them, an ERROR too."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
        async with self._session.get(path, params={**query, "watch": "true"}, timeout=timeout) as answer:
            if answer.status >= 400:
                raise Refused(answer.status, await answer.text())
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    yield json.loads(line)
