"""What /progress and /metrics say."""

import json
from contextlib import closing
from http.client import HTTPConnection

import pytest

from tuneyard_trainer.runtime.progress import Progress, Snapshot, render_metrics, serve_progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_updates_name_what_has_changed() -> None:
    progress = Progress("train")
    progress.update(step=1, steps=10, loss=2.5, message="training")
    progress.update(step=2, percent=20)
    now = progress.snapshot()
    assert (now.step, now.steps, now.loss, now.percent, now.message) == (2, 10, 2.5, 20, "training")


@pytest.mark.parametrize(("given", "shown"), [(-1, 0), (33.9, 33), (101, 100)])
def test_percent_is_a_whole_number_of_a_hundred(given: float, shown: int) -> None:
    progress = Progress("train")
    progress.update(percent=given)  # type: ignore[arg-type]
    assert progress.snapshot().percent == shown


def test_the_rest_takes_as_long_as_what_was_seen() -> None:
    clock = Clock()
    progress = Progress("train", clock=clock)
    for step, seconds, eta in [(40, 0, None), (41, 10, 590), (50, 100, 500), (100, 600, 0)]:
        clock.now = seconds  # resumed at step 40: the steps before it took this pod no time
        progress.update(step=step, steps=100)
        assert progress.snapshot().eta_seconds == eta


def test_a_listener_hears_of_each_change() -> None:
    heard: list[Snapshot] = []
    Progress("train", heard.append).update(percent=5)
    assert [each.percent for each in heard] == [5]


def test_metrics_leave_out_what_is_not_known() -> None:
    text = render_metrics(Snapshot("train", percent=5, loss=1.5)).decode()
    assert 'tuneyard_train_loss{stage="train"} 1.5' in text
    assert 'tuneyard_stage_percent{stage="train"} 5.0' in text
    assert "tokens_per_second" not in text


def test_it_is_served() -> None:
    progress = Progress("train")
    progress.update(percent=7, step=1, steps=2)
    server = serve_progress(progress, 0)
    assert server is not None
    port = int(server.server_address[1])
    unknown = dict.fromkeys(("loss", "tokensPerSecond", "etaSeconds", "message"))
    try:
        status, body = get(port, "/progress")
        assert (status, json.loads(body)) == (200, {"stage": "train", "percent": 7, "step": 1, "steps": 2} | unknown)
        assert b"tuneyard_stage_percent" in get(port, "/metrics")[1]
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/other")[0] == 404
        assert serve_progress(progress, port) is None, "a taken port does not stop the stage"
    finally:
        server.shutdown()
        server.server_close()


def get(port: int, path: str) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
