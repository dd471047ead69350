"""Objects with the name of a child that are not the operator's, on a real API server."""

from collections.abc import AsyncIterator, Iterator

import pytest

from support.apiserver import ApiServer, Json, api_server
from support.builders import SETTINGS
from support.connected import connected
from support.declared import KINDS
from tuneyard_operator import modelserver
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.errors import ApiError
from tuneyard_operator.machinery.http import HttpClient
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.objects import Key, condition
from tuneyard_operator.machinery.reconcile import Reconciler

SERVICES = "/api/v1/namespaces/default/services"
SERVERS = "/apis/tuneyard.dev/v1alpha1/namespaces/default/modelservers"
KEY = Key("ModelServer", "default", "bot")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("names")) as running:
        running.install_crds()
        yield running


@pytest.fixture
async def kube(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    async with connected(server.kubeconfig, monkeypatch) as kube:
        yield kube


def theirs() -> Json:
    spec = {"selector": {"app": "another"}, "ports": [{"name": "http", "port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bot"}, "spec": spec}


def bot() -> Json:
    model = {"uri": "s3://artifacts/a", "digest": f"sha256:{'a' * 64}"}
    head = {"apiVersion": "tuneyard.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": "bot"}}
    return head | {"spec": {"model": model}}


async def test_foreign_service_is_not_overwritten(server: ApiServer, kube: Kube) -> None:
    before = server.request("POST", SERVICES, theirs())
    cache = Cache(KINDS)
    cache.put(server.request("POST", SERVERS, bot()))
    reconcile = Reconciler(kube, cache, [modelserver.CONTROLLER], SETTINGS, HttpClient())
    with pytest.raises(ApiError) as refused:
        await reconcile(KEY)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert server.request("GET", f"{SERVICES}/bot") == before

    cache.put(before)  # as the watch does
    await reconcile(KEY)
    told = condition(server.request("GET", f"{SERVERS}/bot"), "Degraded")
    assert "Service bot: belongs to someone else" in told["message"]
    assert server.request("GET", f"{SERVICES}/bot") == before


async def test_children_of_an_earlier_process_are_adopted(server: ApiServer, kube: Kube) -> None:
    """Although the cache does not have them yet."""
    server.request("DELETE", f"{SERVICES}/bot")
    made = server.request("GET", f"{SERVERS}/bot")
    for _ in range(2):
        cache = Cache(KINDS)
        cache.put(made)
        await Reconciler(kube, cache, [modelserver.CONTROLLER], SETTINGS, HttpClient())(KEY)
        made = server.request("GET", f"{SERVERS}/bot")
    (owner,) = server.request("GET", f"{SERVICES}/bot")["metadata"]["ownerReferences"]
    assert owner["uid"] == made["metadata"]["uid"]


async def test_children_of_a_namesake_are_reused(server: ApiServer, kube: Kube) -> None:
    """No garbage collector runs here, as if it had missed the deletion."""
    server.request("DELETE", f"{SERVERS}/bot")
    made = server.request("POST", SERVERS, bot())
    cache = Cache(KINDS)
    left = [server.request("GET", f"{SERVICES}/bot"), *deployments(server)]
    for each in (made, *left):
        cache.put(each)
    await Reconciler(kube, cache, [modelserver.CONTROLLER], SETTINGS, HttpClient())(KEY)
    taken = [server.request("GET", f"{SERVICES}/bot"), *deployments(server)]
    assert [each["metadata"]["uid"] for each in taken] == [each["metadata"]["uid"] for each in left]
    for each in taken:
        (owner,) = each["metadata"]["ownerReferences"]
        assert owner["uid"] == made["metadata"]["uid"]


def deployments(server: ApiServer) -> list[Json]:
    """As a watch shows them: a list's items have no kind."""
    listed = server.request("GET", "/apis/apps/v1/namespaces/default/deployments")["items"]
    assert listed
    return [{"apiVersion": "apps/v1", "kind": "Deployment", **each} for each in listed]
