"""The API server, with objects as plain dicts. The only module that imports the Kubernetes client."""

import json
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, NamedTuple, Self

import aiohttp
from kubernetes.aio import client, config

from tuneyard_api.names import FIELD_MANAGER, GROUP, VERSION
from tuneyard_operator.errors import UNREACHABLE, ApiError
from tuneyard_operator.objects import Json, name, namespace, uid

TIMEOUT_SECONDS: Final = 20


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


class Kube:
    """Each method raises ApiError when the API server refuses or cannot be reached."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """With the pod's service account, or the kubeconfig of whoever runs it."""
        configuration = client.Configuration()
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return cls(client.ApiClient(configuration))

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """None where there is no such object."""
        try:
            return await self._call("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str, *, labels: str = "", fields: str = "") -> list[Json]:
        query = {"labelSelector": labels, "fieldSelector": fields}
        found = await self._call("GET", _path(kind, namespace), {key: value for key, value in query.items() if value})
        return [_typed(each, kind) for each in found["items"]]

    async def apply(self, thing: Json, *, subresource: str = "") -> Json:
        """Server-side apply: what we leave out is not ours, what we left out since the last time goes."""
        path = _path(thing["kind"], namespace(thing), name(thing)) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._call("PATCH", path, query, thing, "application/apply-patch+yaml")

    async def create(self, thing: Json) -> bool:
        """False, and nothing is done, where it is there already."""
        try:
            await self._call("POST", _path(thing["kind"], namespace(thing)), {"fieldManager": FIELD_MANAGER}, thing)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return False
            raise
        return True

    async def replace(self, thing: Json) -> Json:
        """Refused with 409 where somebody has written since the resourceVersion that it carries."""
        return await self._call("PUT", _path(thing["kind"], namespace(thing), name(thing)), {}, thing)

    async def changes(self, thing: Json, seconds: int) -> AsyncGenerator[Json]:
        """One object, each time that it changes from now on; ends when it is deleted, and after so many seconds."""
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name(thing)}",
            "resourceVersion": thing["metadata"]["resourceVersion"],
            "timeoutSeconds": str(seconds),
        }
        path = _path(thing["kind"], namespace(thing))
        try:
            answer = await self._send("GET", path, query, timeout=seconds + TIMEOUT_SECONDS)
            try:
                if answer.status >= 400:
                    raise _error(answer.status, await answer.read())
                async for line in answer.response.content:
                    change = json.loads(line)
                    if change["type"] == "ERROR":
                        raise _error(int(change["object"].get("code", 500)), json.dumps(change["object"]).encode())
                    if change["type"] == "DELETED":
                        return
                    yield change["object"]
            finally:
                answer.response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(UNREACHABLE, type(error).__name__, str(error)) from error

    async def delete(self, thing: Json) -> None:
        """Just this object, not another one of its name; does nothing where it is gone."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": RESOURCES[thing["kind"]].propagation,
            "preconditions": {"uid": uid(thing)},
        }
        try:
            await self._call("DELETE", _path(thing["kind"], namespace(thing), name(thing)), {}, body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        try:
            answer = await self._send(method, path, query, body, content_type)
            text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(UNREACHABLE, type(error).__name__, str(error)) from error
        if answer.status >= 400:
            raise _error(answer.status, text)
        parsed: Json = json.loads(text)
        return parsed

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Any:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        request = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        return await self._api.call_api(*request, _request_timeout=timeout)


def _path(kind: str, namespace: str, name: str = "") -> str:
    resource = RESOURCES[kind]
    return f"{resource.root}/namespaces/{namespace}/{resource.plural}" + (f"/{name}" if name else "")


def _typed(thing: Json, kind: str) -> Json:
    """Items of a list come without their kind."""
    return thing | {"kind": kind}


def _error(status: int, text: bytes) -> ApiError:
    try:
        said: Any = json.loads(text)
        return ApiError(status, said.get("reason") or "Error", said.get("message") or "")
    except (ValueError, AttributeError):
        return ApiError(status, "Error", text[:500].decode(errors="replace"))
