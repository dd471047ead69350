"""The informers, the cache and the reconciler against a real API server, whose connection can be cut."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from support.apiserver import ApiServer, Json, api_server
from support.builders import SETTINGS
from support.connected import connect
from support.declared import KINDS, SOURCES
from support.wire import Wire, wire_to
from tuneyard_operator import main
from tuneyard_operator.admission.review import Admission
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.controller import Context, Controller
from tuneyard_operator.machinery.errors import ApiError, Verdict, classify, delay
from tuneyard_operator.machinery.http import HttpClient
from tuneyard_operator.machinery.informers import Informer
from tuneyard_operator.machinery.kube import PAGE
from tuneyard_operator.machinery.metrics import API_REQUESTS
from tuneyard_operator.machinery.objects import Key
from tuneyard_operator.machinery.plan import Plan
from tuneyard_operator.machinery.reconcile import Reconciler
from tuneyard_operator.machinery.resources import Resource, Source

FINE_TUNE_JOB = Resource("tuneyard.dev/v1alpha1", "FineTuneJob", "finetunejobs")
JOBS = "/apis/tuneyard.dev/v1alpha1/namespaces/default/finetunejobs"
SPEC: Json = {
    "model": {"uri": "s3://models/m"},
    "dataset": {"train": [{"uri": "s3://data/d.jsonl"}]},
    "output": {"uri": "s3://out", "secretRef": {"name": "keys"}},
}
# Everything but what the API server does by itself.
POLICY: Json = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": ["admin"]}, {"level": "None"}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("api") / "server", audit_policy=POLICY) as running:
        running.install_crds()
        yield running


@pytest.fixture(autouse=True)
def empty(server: ApiServer) -> Iterator[None]:
    yield
    server.request("DELETE", JOBS)


def create(server: ApiServer, name: str) -> Json:
    body = {"apiVersion": "tuneyard.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": SPEC}
    return server.request("POST", JOBS, body)


def label(server: ApiServer, name: str, value: str) -> None:
    body = {"metadata": {"labels": {"told": value}}}
    server.request("PATCH", f"{JOBS}/{name}", body, "application/merge-patch+json")


def labelled(cache: Cache, name: str) -> str | None:
    found = cache.get("FineTuneJob", "default", name)
    return str(found["metadata"].get("labels", {}).get("told", "")) if found else None


async def until(check: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.02)


@pytest.fixture
async def wire(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """KUBECONFIG leads through it."""
    target = int(server.url.rpartition(":")[2])
    async with wire_to(target) as wire:
        config = server.kubeconfig.read_text().replace(server.url, f"https://127.0.0.1:{wire.port}")
        (tmp_path / "kubeconfig").write_text(config)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield wire


@asynccontextmanager
async def informing(kind: str = "FineTuneJob") -> AsyncIterator[Cache]:
    """A cache that one informer fills, once that has listed."""
    kube, cache = connect(), Cache(KINDS)
    informer = Informer(kube, Source(kind), cache)
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(30):
            await informer.listed.wait()
        yield cache
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await kube.close()


def requests(verb: str, code: str = "200") -> float:
    registry = CollectorRegistry()
    registry.register(API_REQUESTS)
    labels = {"verb": verb, "resource": "finetunejobs", "code": code}
    return registry.get_sample_value("api_requests_total", labels) or 0.0


async def test_changes_are_cached(server: ApiServer, wire: Wire) -> None:
    create(server, "before")
    async with informing() as cache:
        assert labelled(cache, "before") == ""
        create(server, "after")
        label(server, "before", "1")
        await until(lambda: labelled(cache, "before") == "1" and labelled(cache, "after") == "")
        server.request("DELETE", f"{JOBS}/before")
        await until(lambda: labelled(cache, "before") is None)


async def test_broken_watch_resumes_without_a_list(server: ApiServer, wire: Wire) -> None:
    create(server, "stays")
    create(server, "goes")
    async with informing() as cache:
        lists = requests("list")
        wire.cut()
        label(server, "stays", "changed-in-the-outage")
        server.request("DELETE", f"{JOBS}/goes")
        create(server, "comes")
        await until(lambda: wire.refused > 0)
        assert labelled(cache, "goes") == "", "not reported yet"
        wire.mend()
        await until(lambda: labelled(cache, "stays") == "changed-in-the-outage")
        await until(lambda: labelled(cache, "goes") is None and labelled(cache, "comes") == "")
        assert requests("list") == lists


async def test_expired_version_is_listed_again(server: ApiServer, wire: Wire) -> None:
    """410 Gone: etcd has been compacted, and the API server's watch cache is new."""
    create(server, "stays")
    create(server, "goes")
    changed: list[str] = []
    async with informing() as cache:
        lists = requests("list")
        cache._on_change = lambda obj: changed.append(obj["metadata"]["name"])
        wire.cut()
        server.request("DELETE", f"{JOBS}/goes")
        label(server, "stays", "changed")
        await until(lambda: wire.refused > 0)
        server.compact()
        server.restart()
        wire.mend()
        await until(lambda: labelled(cache, "goes") is None and labelled(cache, "stays") == "changed")
        assert requests("list") == lists + 1
        assert sorted(changed) == ["goes", "stays"], "their followers are enqueued"


async def test_long_lists_come_in_pages(server: ApiServer, wire: Wire) -> None:
    await asyncio.to_thread(lambda: [create(server, f"many-{each}") for each in range(2 * PAGE + 1)])
    before = requests("list")
    async with informing() as cache:
        assert cache.states("FineTuneJob") == {"Pending": 2 * PAGE + 1}
        assert requests("list") == before + 3


async def test_rejected_watch_is_retried_with_a_delay(wire: Wire) -> None:
    kube, cache = connect(), Cache(KINDS)
    wire.cut()
    informer = Informer(kube, Source("FineTuneJob"), cache)
    task = asyncio.create_task(informer.run())
    await until(lambda: wire.refused >= 2)
    started, tries = time.monotonic(), wire.refused
    await until(lambda: wire.refused > tries)
    assert time.monotonic() - started > 0.7
    assert not informer.stuck(), "an API server that is away is no reason to restart"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await kube.close()


async def observe(job: Json, _: Context) -> Json:
    return job


async def test_stale_writer_is_rejected(server: ApiServer, wire: Wire) -> None:
    """A status carries the resourceVersion that it was computed from. The next reconcile has the newer one."""
    create(server, "x")
    key = Key("FineTuneJob", "default", "x")
    controller: Controller[Any, None] = Controller(FINE_TUNE_JOB, observe, lambda *_: Plan({"phase": "Training"}))
    async with informing() as cache:
        seen = cache.get(*key)
        assert seen
        label(server, "x", "1")
        await until(lambda: labelled(cache, "x") == "1")
        stale, kube = Cache(KINDS), connect()
        stale.put(seen)
        with pytest.raises(ApiError) as refused:
            await Reconciler(kube, stale, [controller], None, HttpClient())(key)
        assert refused.value.status == 409
        assert classify(refused.value) is Verdict.RETRY and delay(refused.value, 1, 1.0) < 0.2
        assert "status" not in server.request("GET", f"{JOBS}/x")
        await Reconciler(kube, cache, [controller], None, HttpClient())(key)
        assert server.request("GET", f"{JOBS}/x")["status"] == {"phase": "Training"}
        assert (cache.get(*key) or {})["status"] == {"phase": "Training"}, "the response is cached at once"
        await kube.close()


@asynccontextmanager
async def operator(port: int) -> AsyncIterator[aiohttp.ClientSession]:
    """The whole operator, ready; a session for its port."""
    task = asyncio.create_task(main.run(SETTINGS.model_copy(update={"health_port": port}), Admission()))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        try:
            async with asyncio.timeout(30):
                while not await _ready(session):
                    assert not task.done(), task.result()
                    await asyncio.sleep(0.02)
            yield session
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/readyz") as answer:
            return answer.ok
    except aiohttp.ClientError:
        return False


async def text(session: aiohttp.ClientSession, path: str) -> str:
    async with session.get(path) as answer:
        return await answer.text()


def audited(server: ApiServer, since: int, agent: str = "tuneyard-operator") -> list[str]:
    """The requests of clients of that name, as VERB URI; a watch counts when it begins, a Lease's renewal never."""
    lines = [json.loads(line) for line in server.audit_log.read_text()[since:].splitlines()]
    asked = [each for each in lines if each["verb"] != "watch" or each["stage"] == "ResponseStarted"]
    asked = [each for each in asked if each.get("objectRef", {}).get("resource") != "leases"]
    return [f"{each['verb']} {each['requestURI']}" for each in asked if each.get("userAgent", "").startswith(agent)]


async def test_no_requests_at_rest(server: ApiServer, wire: Wire, unused_tcp_port: int) -> None:
    create(server, "runs")
    async with operator(unused_tcp_port) as session:
        jobs = "/apis/batch/v1/namespaces/default/jobs"
        await until(lambda: len(server.request("GET", jobs)["items"]) == 1)
        await until(lambda: "status" in server.request("GET", f"{JOBS}/runs"))
        await settled(server)
        since = len(server.audit_log.read_text())
        # A change of the Job enqueues a reconcile that finds nothing to do.
        before = await text(session, "/metrics")
        (job,) = server.request("GET", jobs)["items"]
        patch = {"metadata": {"annotations": {"seen": "1"}}}
        server.request("PATCH", f"{jobs}/{job['metadata']['name']}", patch, "application/merge-patch+json")
        count = 'tuneyard_reconcile_duration_seconds_count{kind="FineTuneJob"}'
        await until_async(lambda: more(session, count, before))
        await settled(server)
        assert audited(server, since) == []
        assert await text(session, "/healthz") == "ok, leads"
        metrics_now = await text(session, "/metrics")
        assert 'tuneyard_finetunejobs{phase="Pending"} 1.0' in metrics_now
        assert "process_resident_memory_bytes" in metrics_now
        server.request("DELETE", f"{jobs}/{job['metadata']['name']}?propagationPolicy=Background")


async def test_sigterm_ends_the_process_and_kopf_reads_no_object(
    server: ApiServer, wire: Wire, unused_tcp_port: int
) -> None:
    since = len(server.audit_log.read_text())
    settings = {"TRAINER_IMAGE": "t", "SERVER_IMAGE": "s", "HEALTH_PORT": str(unused_tcp_port), "LOG_FORMAT": "json"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tuneyard_operator"),
        env=os.environ | {f"TUNEYARD_{key}": value for key, value in settings.items()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with aiohttp.ClientSession(f"http://127.0.0.1:{unused_tcp_port}") as session:
        await until_async(lambda: _ready(session))
    await settled(server, 1.0)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(4):
        said, _ = await process.communicate()
    assert process.returncode == 0, said
    assert {json.loads(line)["level"] for line in said.decode().splitlines()} <= {"INFO"}
    asked = audited(server, since)
    assert len([each for each in asked if "watch=true" in each]) == len(SOURCES)
    assert len([each for each in asked if f"limit={PAGE}" in each]) == len(SOURCES)
    assert len([each for each in asked if each.startswith("get ")]) == 1, "the owner of the Lease"
    assert len(asked) == 2 * len(SOURCES) + 1
    discovery = audited(server, since, "kopf")
    assert discovery and all("?" not in each and each.count("/") <= 3 for each in discovery), "no object is read"


async def settled(server: ApiServer, seconds: float = 3.0) -> None:
    """Returns when the operator has sent no request for that long."""
    size, since = -1, time.monotonic()
    async with asyncio.timeout(60):
        while time.monotonic() - since < seconds:
            if (now := len(audited(server, 0))) != size:
                size, since = now, time.monotonic()
            await asyncio.sleep(0.2)


async def more(session: aiohttp.ClientSession, sample: str, before: str) -> bool:
    def value(told: str) -> float:
        return sum(float(line.split()[-1]) for line in told.splitlines() if line.startswith(sample))

    return value(await text(session, "/metrics")) > value(before)


async def until_async(check: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # type: ignore[misc]
            await asyncio.sleep(0.05)


def test_kinds_of_observations_are_watched() -> None:
    assert {each.kind for each in SOURCES} == {
        "FineTuneJob", "ModelServer", "Job", "Pod", "Deployment", "Service", "Event",
        "PodDisruptionBudget", "ResourceQuota",
    }  # fmt: skip
