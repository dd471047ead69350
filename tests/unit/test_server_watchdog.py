"""When an engine hangs, whether a draft model has the model's vocabulary, and what the metrics say."""

import json
import threading
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tuneyard_api.contracts.serving import Speculation
from tuneyard_server.engines.base import Work
from tuneyard_server.engines.vllm.metrics import speculation, work
from tuneyard_server.memory import OutOfMemoryCount
from tuneyard_server.probes import handler
from tuneyard_server.vocabulary import difference
from tuneyard_server.watchdog import Limits, Watchdog, start_seconds

LIMITS = Limits(start=60, silence=20, standstill=30)
IDLE = Work(0, 5)


def observe(watchdog: Watchdog, *observations: tuple[bool, Work | None], seconds: float = 10) -> list[str | None]:
    return [watchdog.observe(seconds, answers, work) for answers, work in observations]


def test_start_takes_longer_for_larger_models() -> None:
    assert start_seconds(0) == 1800
    assert start_seconds(140 * 10**9) == 4600


def test_engine_has_time_to_start() -> None:
    watchdog = Watchdog(LIMITS)
    found = observe(watchdog, *[(False, None)] * 6)
    assert found == [None] * 5 + ["did not start to answer within 60 s"]
    assert not watchdog.has_answered


def test_engine_that_has_answered_may_be_silent_for_less() -> None:
    watchdog = Watchdog(LIMITS)
    assert observe(watchdog, (True, IDLE), (False, None), (True, IDLE), (False, None)) == [None] * 4
    assert observe(watchdog, (False, None)) == ["did not answer /health for 20 s"]
    assert watchdog.has_answered


def test_engine_with_requests_must_compute() -> None:
    busy = (True, Work(3, 7))
    assert observe(Watchdog(LIMITS), *[busy] * 4)[-1] == "has 3 request(s) and has computed nothing for 30 s"
    computing = [(True, Work(3, steps)) for steps in range(10)]
    assert observe(Watchdog(LIMITS), *computing) == [None] * 10
    assert observe(Watchdog(LIMITS), *[(True, IDLE)] * 10) == [None] * 10
    assert observe(Watchdog(LIMITS), *[(True, None)] * 10) == [None] * 10


def test_suspended_machine_is_not_a_hang() -> None:
    watchdog = Watchdog(LIMITS, most=5)
    observe(watchdog, (True, Work(1, 7)))
    assert observe(watchdog, (True, Work(1, 7)), seconds=7200) == [None]
    assert observe(watchdog, (False, None), seconds=7200) == [None]


def test_metrics_are_summed_over_engines() -> None:
    text = """
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="bot"} 2.0
vllm:num_requests_running{engine="1",model_name="bot"} 1.0
vllm:num_requests_waiting{engine="0",model_name="bot"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="bot",reason="capacity"} 4.0
vllm:iteration_tokens_total_count{engine="0",model_name="bot"} 6.0
vllm:iteration_tokens_total_count{engine="1",model_name="bot"} 5.0
"""
    assert work(text) == Work(7, 11.0)
    assert work("nothing") is None


def test_speculation_is_summed_over_engines() -> None:
    text = """
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="bot"} 40.0
vllm:spec_decode_num_draft_tokens_total{engine="1",model_name="bot"} 10.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="bot"} 30.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="bot",position="0"} 30.0
"""
    assert speculation(text) == Speculation(drafted=50, accepted=30)
    assert speculation("vllm:num_requests_running 2.0") is None


def test_probes_and_documents() -> None:
    """200 or 503 for the kubelet, JSON for the operator, 404 for what is not there."""
    report = Speculation(drafted=5, accepted=4)
    probes = {"/startupz": lambda: True, "/livez": lambda: False}
    server = HTTPServer(("127.0.0.1", 0), handler(probes, {"/speculation": lambda: report, "/none": lambda: None}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        statuses = {path: httpx.get(url + path).status_code for path in ("/startupz", "/livez", "/none", "/other")}
        assert statuses == {"/startupz": 200, "/livez": 503, "/none": 404, "/other": 404}
        assert httpx.get(f"{url}/speculation").json() == {"drafted": 5, "accepted": 4}
    finally:
        server.shutdown()
        server.server_close()


def test_kernel_counts_killed_processes(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    assert not OutOfMemoryCount(events).has_grown()
    events.write_text("low 0\noom 3\noom_kill 3\noom_group_kill 0\n")
    count = OutOfMemoryCount(events)
    assert not count.has_grown()
    events.write_text("low 0\noom 4\noom_kill 4\noom_group_kill 0\n")
    assert count.has_grown()


def model(folder: Path, name: str, tokens: Any, size: int = 4, added: dict[str, int] | None = None) -> Path:
    path = folder / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"vocab_size": size}))
    listed = [{"content": token, "id": number} for token, number in (added or {}).items()]
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}, "added_tokens": listed}))
    return path


@pytest.mark.parametrize(
    ("draft", "size", "added", "says"),
    [
        ({"a": 0, "b": 1}, 4, {"<end>": 2}, None),
        ([["a", -1.0], ["b", -2.0]], 4, {"<end>": 2}, None),
        ({"a": 0, "b": 1}, 5, {"<end>": 2}, "the model has 4 tokens (vocab_size in config.json), the draft model 5"),
        ({"b": 0, "a": 1}, 4, {"<end>": 2}, "token 0 of the model is 'a', which the draft model has as 1"),
        ({"a": 0, "b": 1}, 4, {}, "token 2 of the model is '<end>', which the draft model has as None"),
        ({"a": 0, "b": 1}, 4, {"<end>": 2, "<x>": 3}, "the draft model has the token '<x>', which the model lacks"),
    ],
)
def test_draft_has_the_models_vocabulary(
    tmp_path: Path, draft: Any, size: int, added: dict[str, int], says: str | None
) -> None:
    first = model(tmp_path, "model", {"a": 0, "b": 1}, added={"<end>": 2})
    assert difference(first, model(tmp_path, "draft", draft, size, added)) == says
