"""Elections against a real API server, some of them through a wire that can be cut."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from support.apiserver import ApiServer, api_server
from support.chart import CHART, IMAGES
from support.connected import connected
from support.wire import Wire, wire_to
from tuneyard_operator.machinery.errors import ApiError
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.leader import Election
from tuneyard_operator.machinery.lease import Timing

TIMING: Final = Timing(lease=5, deadline=4.0, retry=0.3)
SLACK: Final = 1.5  # seconds that a busy machine may add


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["ResponseStarted", "ResponseComplete"],  # a watch is complete only at its end
        "rules": [{"level": "Metadata", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]}],
    }
    with api_server(tmp_path_factory.mktemp("leader"), audit_policy=policy) as running:
        yield running


@pytest.fixture
def lease(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).replace("_", "-").replace("[", "-").strip("]")


Candidate = Callable[[str], Election]


@pytest.fixture
async def candidate(server: ApiServer, lease: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Candidate]:
    """Makes elections that talk straight to the API server."""
    async with connected(server.kubeconfig, monkeypatch) as kube:
        yield lambda name: Election(kube, name, "default", lease, TIMING)


def spec(server: ApiServer, lease: str) -> dict[str, Any]:
    found = server.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{lease}")
    return dict(found["spec"])


async def timed(ends: Awaitable[None], limit: float = 20.0) -> tuple[float, float]:
    """How many seconds it took, and the loop's time at its end."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(limit):
        await ends
    return loop.time() - began, loop.time()


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator["asyncio.Future[None]"]:
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_exactly_one_of_five_leads(candidate: Candidate, server: ApiServer, lease: str) -> None:
    elections = {name: candidate(name) for name in "abcde"}
    tasks = {asyncio.ensure_future(each.acquire()): name for name, each in elections.items()}
    await asyncio.wait(tasks, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    done, waiting = await asyncio.wait(tasks, timeout=TIMING.lease / 2)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    (winner,) = [tasks[each] for each in done]
    assert [name for name, each in elections.items() if each.leads] == [winner]
    assert spec(server, lease)["holderIdentity"] == winner
    assert spec(server, lease)["leaseTransitions"] == 0


async def test_release_is_noticed_within_a_second(candidate: Candidate, server: ApiServer, lease: str) -> None:
    first, second = candidate("first"), candidate("second")
    await first.acquire()
    async with running(second.acquire()) as waiting:
        async with running(first.renew()):
            await asyncio.sleep(TIMING.lease + 1)
            assert not waiting.done(), "renewals keep the standby away"
            assert first.leads
        await first.release()
        took, _ = await timed(waiting)
    assert took < 1
    assert second.leads
    assert not first.leads
    assert spec(server, lease)["holderIdentity"] == "second"
    assert spec(server, lease)["leaseTransitions"] == 1


async def test_lease_is_owned_by_the_deployment_of_its_name(
    candidate: Candidate, server: ApiServer, lease: str
) -> None:
    """A reinstalled operator acquires the Lease with the new Deployment as its owner."""
    owners: list[dict[str, Any]] = []
    for name in ("first", "second"):
        deployment = deploy(server, lease)
        election = candidate(name)
        await election.acquire()
        await election.release()
        owners.append({"apiVersion": "apps/v1", "kind": "Deployment", "name": lease, "uid": deployment})
        found = server.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{lease}")
        assert found["metadata"]["ownerReferences"] == owners[-1:]
        server.request("DELETE", f"/apis/apps/v1/namespaces/default/deployments/{lease}")
    assert owners[0] != owners[1]


def deploy(server: ApiServer, name: str) -> str:
    """The new Deployment's uid."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    made = server.request("POST", "/apis/apps/v1/namespaces/default/deployments", body)
    return str(made["metadata"]["uid"])


async def test_released_lease_has_no_holder(candidate: Candidate, server: ApiServer, lease: str) -> None:
    first = candidate("first")
    await first.acquire()
    await first.release()
    assert (spec(server, lease).get("holderIdentity"), spec(server, lease)["leaseDurationSeconds"]) == ("", 1)
    await candidate("second").acquire()
    await first.release()
    assert spec(server, lease)["holderIdentity"] == "second", "a process that does not lead releases nothing"


async def test_lease_that_is_not_renewed_expires(candidate: Candidate) -> None:
    await candidate("first").acquire()
    took, _ = await timed(candidate("second").acquire())
    assert TIMING.lease <= took < TIMING.lease + SLACK


async def test_new_label_is_no_renewal(candidate: Candidate, server: ApiServer, lease: str) -> None:
    await candidate("first").acquire()

    async def label() -> None:
        for count in range(100):
            path = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{lease}"
            body = {"metadata": {"labels": {"count": str(count)}}}
            await asyncio.to_thread(server.request, "PATCH", path, body, "application/merge-patch+json")
            await asyncio.sleep(0.5)

    async with running(label()):
        took, _ = await timed(candidate("second").acquire())
    # A write of the label may come between look and write; then the candidate tries again.
    assert TIMING.lease <= took < TIMING.lease + 3 * TIMING.retry + SLACK


async def test_holder_survives_the_writes_of_others(candidate: Candidate, server: ApiServer, lease: str) -> None:
    first = candidate("first")
    await first.acquire()
    path = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{lease}"
    async with running(first.renew()) as renewing:
        body = {"metadata": {"labels": {"team": "ml"}}}
        await asyncio.to_thread(server.request, "PATCH", path, body, "application/merge-patch+json")
        await asyncio.sleep(TIMING.deadline + 1)
        assert not renewing.done()
        assert first.leads
    assert server.request("GET", path)["metadata"]["labels"] == {"team": "ml"}, "and keeps what they wrote"


@pytest.mark.parametrize("loss", ["taken", "deleted"])
async def test_holder_stops_without_its_lease(candidate: Candidate, server: ApiServer, lease: str, loss: str) -> None:
    first = candidate("first")
    await first.acquire()
    path = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{lease}"
    if loss == "taken":
        body = {"spec": {"holderIdentity": "thief"}}
        await asyncio.to_thread(server.request, "PATCH", path, body, "application/merge-patch+json")
    else:
        await asyncio.to_thread(server.request, "DELETE", path)
    took, _ = await timed(first.renew())
    assert took < TIMING.retry_period() * 1.2 + SLACK
    assert not first.leads


@asynccontextmanager
async def wired(server: ApiServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Wire, Kube]]:
    async with wire_to(urlsplit(server.url).port or 0) as wire:
        config = yaml.safe_load(server.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{wire.port}"
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        async with connected(folder / "kubeconfig", monkeypatch) as kube:
            yield wire, kube


@pytest.mark.parametrize("cut", [Wire.swallow, Wire.cut], ids=["swallow", "cut"])
async def test_disconnected_holder_stops_first(
    cut: Callable[[Wire], None],
    candidate: Candidate,
    server: ApiServer,
    lease: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with wired(server, tmp_path, monkeypatch) as (wire, kube):
        first, second = Election(kube, "first", "default", lease, TIMING), candidate("second")
        await first.acquire()
        async with running(first.renew()) as renewing, running(second.acquire()) as waiting:
            await asyncio.sleep(1)
            cut(wire)
            (stopped_after, stopped_at), (won, won_at) = await asyncio.gather(timed(renewing), timed(waiting))
    assert stopped_after < TIMING.deadline + SLACK
    assert won_at - stopped_at > (TIMING.lease - TIMING.deadline) / 2
    assert TIMING.lease - 1.2 * TIMING.retry - SLACK < won < TIMING.lease + SLACK


async def test_holder_survives_a_short_outage(
    candidate: Candidate, server: ApiServer, lease: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wired(server, tmp_path, monkeypatch) as (wire, kube):
        first, second = Election(kube, "first", "default", lease, TIMING), candidate("second")
        await first.acquire()
        async with running(first.renew()) as renewing, running(second.acquire()) as waiting:
            wire.cut()
            await asyncio.sleep(TIMING.deadline / 3)
            wire.mend()
            await asyncio.sleep(TIMING.lease)
            assert first.leads
            assert not renewing.done()
            assert not waiting.done()


async def test_standby_survives_an_outage(
    candidate: Candidate, server: ApiServer, lease: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wired(server, tmp_path, monkeypatch) as (wire, kube):
        first, second = candidate("first"), Election(kube, "second", "default", lease, TIMING)
        await first.acquire()
        async with running(first.renew()) as renewing, running(second.acquire()) as waiting:
            await asyncio.sleep(0.5)
            wire.cut()
            await asyncio.sleep(TIMING.lease + 1)
            assert not waiting.done(), "it observes nothing, and acquires nothing"
            wire.mend()
            await asyncio.sleep(1)
            assert not waiting.done()
            assert not renewing.done()
        await first.release()


async def test_standby_costs_no_requests(candidate: Candidate, server: ApiServer, lease: str) -> None:
    """A get and one watch of ten minutes; all other requests are the holder's renewals."""
    holder, standby = candidate("holder"), candidate("standby")
    await holder.acquire()
    async with running(holder.renew()), running(standby.acquire()):
        await watched(server, lease)
        before = len(verbs(server, lease))
        await asyncio.sleep(TIMING.lease + 1)
        after = verbs(server, lease)
    assert after.count("watch") == 1
    assert set(after[before:]) == {"update"}
    assert (TIMING.lease + 1) / (1.2 * TIMING.retry) - 3 < len(after[before:]) <= (TIMING.lease + 1) / TIMING.retry


async def test_standby_costs_no_requests_after_a_compaction(
    candidate: Candidate, server: ApiServer, lease: str
) -> None:
    await candidate("holder").acquire()
    server.request("POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases", {"metadata": {"name": "later"}})
    server.compact()
    await asyncio.to_thread(server.restart)
    async with running(candidate("standby").acquire()):
        await watched(server, lease)
        before = len(verbs(server, lease))
        await asyncio.sleep(TIMING.lease / 2)
        assert verbs(server, lease)[before:] == []


async def watched(server: ApiServer, lease: str) -> None:
    """Returns when the standby has begun to watch the Lease, and has had a moment for whatever else it may ask."""
    async with asyncio.timeout(20):
        while "watch" not in verbs(server, lease):
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)


def verbs(server: ApiServer, lease: str) -> list[str]:
    """The verbs of all requests for a Lease so far."""
    lines = [json.loads(line) for line in server.audit_log.read_text().splitlines()]
    return [each["verb"] for each in lines if each["objectRef"].get("name") == lease]


async def test_role_of_the_chart_suffices(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The election of an installed operator, with the rights of its service account."""
    command = ["helm", "template", "tuneyard", str(CHART), *IMAGES]
    command += ["--namespace=default", "--show-only=templates/lease.yaml"]
    rendered = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    apply = [*server.kubectl, "apply", "-f", "-"]
    subprocess.run(apply, input=rendered, check=True, capture_output=True, timeout=60)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tuneyard"}}
    server.request("POST", "/api/v1/namespaces/default/serviceaccounts", account)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = server.request("POST", "/api/v1/namespaces/default/serviceaccounts/tuneyard/token", asked)
    config = yaml.safe_load(server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token["status"]["token"]}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))

    async with connected(tmp_path / "kubeconfig", monkeypatch) as kube:
        first, second = (Election(kube, name, "default", "tuneyard", TIMING) for name in ("first", "second"))
        await timed(first.acquire())
        async with running(second.acquire()) as waiting:
            async with running(first.renew()):
                await asyncio.sleep(2 * TIMING.retry)
            await first.release()
            took, _ = await timed(waiting)
        assert took < 1, "it may watch"
        with pytest.raises(ApiError, match="forbidden"):
            await kube.get("Lease", "default", "another")
