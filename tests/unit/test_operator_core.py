"""The queue, the table of errors, who follows whom, and what is healthy."""

import asyncio
from collections.abc import Callable

import pytest

from tuneyard_operator import health
from tuneyard_operator.errors import ApiError, Verdict, classify
from tuneyard_operator.handlers import kopf_settings, owner_key
from tuneyard_operator.objects import Json
from tuneyard_operator.reconcile import Key
from tuneyard_operator.references import References
from tuneyard_operator.settings import from_environment
from tuneyard_operator.workqueue import LONGEST_DELAY, WorkQueue, backoff


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ApiError(0, "ClientConnectorError", "refused"), Verdict.RETRY),
        (ApiError(409, "Conflict", "changed"), Verdict.RETRY),
        (ApiError(429, "TooManyRequests", ""), Verdict.RETRY),
        (ApiError(500, "InternalError", "etcd"), Verdict.RETRY),
        (ApiError(503, "ServiceUnavailable", ""), Verdict.RETRY),
        (ApiError(403, "Forbidden", "exceeded quota"), Verdict.RETRY),
        (ApiError(403, "Forbidden", "because it is being terminated"), Verdict.WAIT),
        (ApiError(404, "NotFound", "namespaces"), Verdict.WAIT),
        (ApiError(422, "Invalid", "nodeSelector"), Verdict.GIVE_UP),
        (ApiError(400, "BadRequest", ""), Verdict.GIVE_UP),
        (ApiError(413, "RequestEntityTooLarge", ""), Verdict.GIVE_UP),
        (ApiError(418, "Teapot", "unknown"), Verdict.RETRY),
        (KeyError("a mistake of ours"), Verdict.RETRY),
    ],
)
def test_every_error_has_its_verdict(error: Exception, verdict: Verdict) -> None:
    assert classify(error) is verdict


async def drain(queue: WorkQueue[str], until: Callable[[], bool]) -> None:
    running = asyncio.create_task(queue.run())
    async with asyncio.timeout(5):
        while not until():
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class TestWorkQueue:
    async def test_many_wakes_are_one_look(self) -> None:
        seen: list[str] = []

        async def work(key: str) -> None:
            seen.append(key)

        queue = WorkQueue(work)
        for key in ["a", "b", "a", "a"]:
            queue.wake(key)
        await drain(queue, lambda: len(seen) >= 2)
        assert sorted(seen) == ["a", "b"]

    async def test_a_wake_during_the_work_is_not_lost_and_never_works_twice_at_a_time(self) -> None:
        looks, at_once, most = 0, 0, 0

        async def work(key: str) -> None:
            nonlocal looks, at_once, most
            at_once += 1
            most = max(most, at_once)
            looks += 1
            if looks < 4:
                queue.wake(key)
                queue.wake(key)
            await asyncio.sleep(0.005)
            at_once -= 1

        queue = WorkQueue(work, workers=4)
        queue.wake("a")
        await drain(queue, lambda: looks >= 4 and at_once == 0)
        assert (looks, most) == (4, 1)

    async def test_one_slow_key_does_not_hold_up_the_others(self) -> None:
        seen: list[str] = []
        forever = asyncio.Event()

        async def work(key: str) -> None:
            if key == "slow":
                await forever.wait()
            seen.append(key)

        queue = WorkQueue(work, workers=2)
        for key in ["slow", "a", "b"]:
            queue.wake(key)
        await drain(queue, lambda: seen == ["a", "b"])

    async def test_a_failure_is_tried_again_and_then_forgotten(self, caplog: pytest.LogCaptureFixture) -> None:
        tries = 0

        async def work(key: str) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise ApiError(503, "ServiceUnavailable", "etcd is away")

        queue = WorkQueue(work)
        queue.wake("a")
        await drain(queue, lambda: tries == 2)
        assert "etcd is away" in caplog.text

    async def test_work_says_when_it_wants_to_look_again(self) -> None:
        looks = 0

        async def work(key: str) -> float | None:
            nonlocal looks
            looks += 1
            return 0.01 if looks < 3 else None

        queue = WorkQueue(work)
        queue.wake("a")
        await drain(queue, lambda: looks == 3)

    async def test_the_earlier_of_two_times_counts(self) -> None:
        looks = 0

        async def work(key: str) -> None:
            nonlocal looks
            looks += 1

        queue = WorkQueue(work)
        queue.wake("a", after=60)
        queue.wake("a", after=0.01)
        queue.wake("a", after=60)
        await drain(queue, lambda: looks == 1)

    async def test_oldest_sees_a_worker_that_is_stuck(self) -> None:
        async def work(key: str) -> None:
            await asyncio.Event().wait()

        queue = WorkQueue(work)
        assert queue.oldest() == 0
        queue.wake("a")
        await drain(queue, lambda: queue.oldest() > 0.02)

    async def test_keys_that_gather_before_the_work_begins_are_not_late(self) -> None:
        async def work(key: str) -> None:
            await asyncio.Event().wait()

        queue = WorkQueue(work)
        queue.wake("a")
        gathered = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        assert queue.oldest() == 0, "a standby does not work"
        running = asyncio.create_task(queue.run())
        await asyncio.sleep(0)
        assert queue.oldest() < asyncio.get_running_loop().time() - gathered - 0.04, "nor is it late when it begins"
        running.cancel()

    def test_backoff_grows_to_a_limit_and_spreads(self) -> None:
        middle = [backoff(failures, 0.5) for failures in range(1, 12)]
        assert middle[:3] == [0.5, 1.0, 2.0]
        assert middle[-1] == LONGEST_DELAY
        assert backoff(3, 0.0) < backoff(3, 1.0)


def server(name: str, job: str | None) -> Json:
    model: Json = {"fineTuneJobRef": {"name": job}} if job else {"uri": "s3://x/y"}
    return {"metadata": {"name": name, "namespace": "team"}, "spec": {"model": model}}


def test_references_follow_the_servers() -> None:
    references = References()
    job, other = Key("FineTuneJob", "team", "job"), Key("FineTuneJob", "team", "other")
    one, two = Key("ModelServer", "team", "one"), Key("ModelServer", "team", "two")
    references.note(server("one", "job"))
    references.note(server("two", "job"))
    assert references.followers(job) == {one, two}
    references.note(server("one", "other"))
    references.note(server("two", None))
    assert references.followers(job) == set()
    assert references.followers(other) == {one}
    references.note(server("one", "other"), gone=True)
    assert references.followers(other) == set()


@pytest.mark.parametrize(
    ("watching", "oldest", "healthy"), [(True, 0.0, True), (True, 1e4, False), (False, 0.0, False)]
)
def test_health_means_something(watching: bool, oldest: float, healthy: bool) -> None:
    assert (health.verdict(watching, oldest) == "") is healthy


@pytest.mark.parametrize(
    ("labels", "key"),
    [
        ({"tuneyard.dev/finetunejob": "x"}, Key("FineTuneJob", "team", "x")),
        ({"tuneyard.dev/modelserver": "y"}, Key("ModelServer", "team", "y")),
        ({"app": "z"}, None),
    ],
)
def test_a_childs_owner_is_in_its_labels(labels: dict[str, str], key: Key | None) -> None:
    assert owner_key({"metadata": {"name": "c", "namespace": "team", "labels": labels}}) == key


def test_kopf_writes_nothing() -> None:
    settings = kopf_settings()
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.scanning.disabled


def test_each_process_has_an_identity_of_its_own() -> None:
    images = {"TUNEYARD_TRAINER_IMAGE": "t", "TUNEYARD_SERVER_IMAGE": "s", "TUNEYARD_POD_NAME": "tuneyard-0"}
    one, other = from_environment(images), from_environment(images)
    assert one.identity.startswith("tuneyard-0_")
    assert one.identity != other.identity, "a restarted container is not its predecessor"


def test_settings_name_the_variable_that_is_missing() -> None:
    with pytest.raises(SystemExit, match="TUNEYARD_TRAINER_IMAGE"):
        from_environment({})


def test_settings_are_read_from_the_environment() -> None:
    settings = from_environment(
        {
            "TUNEYARD_TRAINER_IMAGE": "t",
            "TUNEYARD_SERVER_IMAGE": "s",
            "TUNEYARD_NAMESPACES": "a,b",
            "TUNEYARD_LOG_LEVEL": "debug",
        }
    )
    assert settings.namespaces == ("a", "b")
    assert settings.log_level == "DEBUG"
