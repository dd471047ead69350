"""The work queue, the table of errors, log records, health, and settings."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from unittest import mock

import pytest

from tuneyard_operator import main
from tuneyard_operator.machinery import health, logs
from tuneyard_operator.machinery.errors import UNREACHABLE, ApiError, Verdict, classify, delay, rule
from tuneyard_operator.machinery.objects import Key
from tuneyard_operator.machinery.workqueue import Lanes, WorkQueue
from tuneyard_operator.pods.images import ROLES, NoImageError, image
from tuneyard_operator.settings import Settings, from_environment


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
        (KeyError("a defect"), Verdict.RETRY),
    ],
)
def test_verdicts(error: Exception, verdict: Verdict) -> None:
    assert classify(error) is verdict


async def drain(queue: WorkQueue[str], until: Callable[[], bool]) -> None:
    running = asyncio.create_task(queue.run())
    async with asyncio.timeout(5):
        while not until():
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class TestWorkQueue:
    async def test_key_enqueued_many_times_is_worked_on_once(self) -> None:
        seen: list[str] = []

        async def work(key: str) -> None:
            seen.append(key)

        queue = WorkQueue(work)
        for key in ["a", "b", "a", "a"]:
            queue.enqueue(key)
        await drain(queue, lambda: len(seen) >= 2)
        assert sorted(seen) == ["a", "b"]

    async def test_key_enqueued_during_its_work_is_requeued(self) -> None:
        runs, at_once, most = 0, 0, 0

        async def work(key: str) -> None:
            nonlocal runs, at_once, most
            at_once += 1
            most = max(most, at_once)
            runs += 1
            if runs < 4:
                queue.enqueue(key)
                queue.enqueue(key)
            await asyncio.sleep(0.005)
            at_once -= 1

        queue = WorkQueue(work, workers=4)
        queue.enqueue("a")
        await drain(queue, lambda: runs >= 4 and at_once == 0)
        assert (runs, most) == (4, 1)

    async def test_slow_key_does_not_delay_others(self) -> None:
        seen: list[str] = []
        forever = asyncio.Event()

        async def work(key: str) -> None:
            if key == "slow":
                await forever.wait()
            seen.append(key)

        queue = WorkQueue(work, workers=2)
        for key in ["slow", "a", "b"]:
            queue.enqueue(key)
        await drain(queue, lambda: seen == ["a", "b"])

    async def test_failure_is_retried_and_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        tries = 0

        async def work(key: str) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise ApiError(503, "ServiceUnavailable", "etcd is away")

        queue = WorkQueue(work)
        queue.enqueue("a")
        await drain(queue, lambda: tries == 2)
        assert "etcd is away" in caplog.text

    async def test_work_requeues_after_some_seconds(self) -> None:
        runs = 0

        async def work(key: str) -> float | None:
            nonlocal runs
            runs += 1
            return 0.01 if runs < 3 else None

        queue = WorkQueue(work)
        queue.enqueue("a")
        await drain(queue, lambda: runs == 3)

    async def test_earlier_of_two_delays_wins(self) -> None:
        runs = 0

        async def work(key: str) -> None:
            nonlocal runs
            runs += 1

        queue = WorkQueue(work)
        queue.enqueue("a", after=60)
        queue.enqueue("a", after=0.01)
        queue.enqueue("a", after=60)
        await drain(queue, lambda: runs == 1)

    async def test_oldest_reports_a_stuck_worker(self) -> None:
        async def work(key: str) -> None:
            await asyncio.Event().wait()

        queue = WorkQueue(work)
        assert queue.oldest() == 0
        queue.enqueue("a")
        await drain(queue, lambda: queue.oldest() > 0.02)

    async def test_oldest_ignores_the_time_before_the_work_began(self) -> None:
        async def work(key: str) -> None:
            await asyncio.Event().wait()

        queue = WorkQueue(work)
        queue.enqueue("a")
        gathered = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        assert queue.oldest() == 0, "a standby does not reconcile"
        running = asyncio.create_task(queue.run())
        await asyncio.sleep(0)
        assert queue.oldest() < asyncio.get_running_loop().time() - gathered - 0.04, "nor is it late when it begins"
        running.cancel()

    async def test_enqueued_key_is_retried_without_delay(self) -> None:
        runs: list[str] = []

        async def work(key: str) -> None:
            runs.append(key)
            if len(runs) == 1:
                raise ApiError(403, "Forbidden", "exceeded quota")  # its backoff outlasts this test

        queue = WorkQueue(work)
        queue.enqueue("a")
        await drain(queue, lambda: len(runs) == 1 and queue.oldest() == 0)
        assert runs == ["a"], "it waits for its delay"
        queue.enqueue("a")
        await drain(queue, lambda: len(runs) == 2)

    async def test_lanes_are_served_in_turn(self) -> None:
        lanes: Lanes[str] = Lanes()
        for key in ["a1", "a2", "a3", "b1", "b2", "c1"]:
            lanes.put(key[0], key)
        assert lanes.depths() == {"a": 3, "b": 2, "c": 1}
        assert [await lanes.get() for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
        assert lanes.depths() == {}

    async def test_failing_key_that_enqueues_itself_is_delayed(self) -> None:
        """As when a status is written for each failure, whose change enqueues the key."""
        tries = 0

        async def work(key: str) -> None:
            nonlocal tries
            tries += 1
            queue.enqueue(key)
            raise ApiError(503, "ServiceUnavailable", "etcd is away")

        queue = WorkQueue(work)
        queue.enqueue("a")
        await drain(queue, lambda: tries == 1 and queue.oldest() == 0)
        assert tries == 1


@pytest.mark.parametrize(
    ("error", "first", "longest"),
    [
        (ApiError(409, "Conflict", ""), 0.1, 10),
        (ApiError(UNREACHABLE, "ClientConnectorError", ""), 1, 30),
        (ApiError(403, "Forbidden", "exceeded quota"), 5, 300),
        (ApiError(500, "InternalError", ""), 0.5, 120),
        (ValueError("a defect"), 0.5, 120),
        (ApiError(429, "TooManyRequests", ""), 1, 60),
    ],
)
def test_delays_double_up_to_a_limit_with_jitter(error: Exception, first: float, longest: float) -> None:
    assert [delay(error, failures, 0.5) for failures in (1, 2, 3)] == [first, 2 * first, 4 * first]
    assert delay(error, 5000, 0.5) == longest == rule(error).longest
    assert delay(error, 3, 0.0) < delay(error, 3, 1.0)


@pytest.mark.parametrize(("asked", "least", "most"), [(None, 0.75, 1.25), (7.0, 7.0, 8.75), (0.0, 0.75, 1.25)])
def test_retry_after_is_respected(asked: float | None, least: float, most: float) -> None:
    error = ApiError(429, "TooManyRequests", "", asked)
    assert (delay(error, 1, 0.0), delay(error, 1, 1.0)) == (least, most)


@pytest.mark.parametrize(
    ("stuck", "oldest", "problem"),
    [
        ([], 0.0, ""),
        ([], 1e4, "a reconcile has been stuck"),
        (["Pod", "Event", "Event"], 0.0, "informers of Event, Pod are"),
    ],
)
def test_health_verdict(stuck: list[str], oldest: float, problem: str) -> None:
    found = health.verdict(stuck, oldest)
    assert problem in found and bool(found) is bool(problem)


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("tuneyard", logging.INFO, "x.py", 1, message, args, None)


def test_log_records_name_their_object() -> None:
    with logs.about(Key("FineTuneJob", "team", "x")):
        inside = json.loads(logs.Json().format(record('says "%s"', "é")))
        assert logs.Text().format(record("hello")).endswith("INFO tuneyard: FineTuneJob team/x: hello")
    assert inside["object"] == "FineTuneJob team/x"
    assert inside["message"] == 'says "é"'
    assert inside["time"].endswith("Z")
    assert "object" not in json.loads(logs.Json().format(record("outside")))


async def test_log_records_of_workers_name_their_own_objects(caplog: pytest.LogCaptureFixture) -> None:
    """Although all workers share a thread."""
    lines: list[str] = []

    async def work(key: str) -> None:
        await asyncio.sleep(0.001)
        lines.append(logs.Text().format(record("hello")))

    queue = WorkQueue(work)
    for key in ["a", "b", "c"]:
        queue.enqueue(key)
    await drain(queue, lambda: len(lines) == 3)
    assert sorted(line.split(": ", 1)[1] for line in lines) == ["a: hello", "b: hello", "c: hello"]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Reads the settings from these variables and no others."""
    for variable in [each for each in os.environ if each.startswith("TUNEYARD_")]:
        monkeypatch.delenv(variable)

    def read(**variables: str) -> Settings:
        for key, value in variables.items():
            monkeypatch.setenv(f"TUNEYARD_{key}", value)
        return from_environment()

    return read


IMAGES = {"TRAINER_IMAGE": "t", "SERVER_IMAGE": "s"}


class TestSettings:
    def test_identity_of_a_process(self, environment: Callable[..., Settings]) -> None:
        one, other = (environment(**IMAGES, POD_NAME="tuneyard-0") for _ in range(2))
        assert one.identity.startswith("tuneyard-0_")
        assert one.identity == one.identity != other.identity, "a restarted container is not its predecessor"

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"TRAINER_IMAGE": ""}, "TUNEYARD_TRAINER_IMAGE: Field required"),
            ({"WORKERS": "none"}, "TUNEYARD_WORKERS: Input should be a valid integer"),
            ({"LOG_FORMAT": "xml"}, "TUNEYARD_LOG_FORMAT: Input should be 'text' or 'json'"),
        ],
    )
    def test_error_names_the_variable(
        self, wrong: dict[str, str], message: str, environment: Callable[..., Settings]
    ) -> None:
        with pytest.raises(SystemExit, match=message):
            environment(**(IMAGES | wrong))

    def test_are_read_from_the_environment(self, environment: Callable[..., Settings]) -> None:
        settings = environment(
            **IMAGES,
            NAMESPACES="a,b",
            LOG_LEVEL="debug",
            LOG_FORMAT="JSON",
            HEALTH_PORT="9000",
            POLL="0.5",
            RETIRE="60",
        )
        assert (settings.log_level, settings.log_format, settings.health_port) == ("DEBUG", "json", 9000)
        assert (settings.namespaces, settings.poll, settings.retire) == (("a", "b"), 0.5, 60.0)

    def test_empty_variables_are_not_set(self, environment: Callable[..., Settings]) -> None:
        """As the chart writes them."""
        settings = environment(**IMAGES, NAMESPACES="", IMAGE_PULL_SECRETS="", LOG_LEVEL="")
        assert (settings.namespaces, settings.image_pull_secrets, settings.log_level) == ((), (), "INFO")

    def test_help_lists_every_variable(self, capsys: pytest.CaptureFixture[str]) -> None:
        with mock.patch.object(sys, "argv", ["tuneyard-operator", "--help"]), pytest.raises(SystemExit):
            main.main()
        text = capsys.readouterr().out
        for field in Settings.model_fields:
            assert f"  TUNEYARD_{field.upper()}  " in text

    def test_every_role_has_an_image(self, environment: Callable[..., Settings]) -> None:
        settings = environment(**IMAGES, IMAGES='{"axolotl": "a", "unsloth": "u", "llamacpp": "l"}')
        assert [image(settings, role) for role in ("trainer", "server", "axolotl")] == ["t", "s", "a"]
        assert all(image(settings, role) for role in ROLES), "a role of the registry needs a setting of its own"
        with pytest.raises(NoImageError, match=r"no image for nothing: .* set images[.]nothing in the"):
            image(settings, "nothing")
