"""The content of /progress and /metrics."""

import json
from contextlib import closing
from http.client import HTTPConnection

import pytest

from tuneyard_api.contracts.progress import ProgressReport
from tuneyard_trainer.runtime.progress import Progress, render_metrics, serve_progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_update_changes_only_its_fields() -> None:
    progress = Progress("train")
    progress.update(step=1, steps=10, loss=2.5, message="training")
    progress.update(step=2, percent=20)
    report = progress.report()
    assert (report.step, report.steps, report.loss, report.percent, report.message) == (2, 10, 2.5, 20, "training")


@pytest.mark.parametrize(("given", "shown"), [(-1, 0), (33.9, 33), (101, 100)])
def test_percent_is_clamped(given: float, shown: int) -> None:
    progress = Progress("train")
    progress.update(percent=given)  # type: ignore[arg-type]
    assert progress.report().percent == shown


def test_eta_follows_the_mean_speed() -> None:
    clock = Clock()
    progress = Progress("train", clock=clock)
    for step, seconds, eta in [(40, 0, None), (41, 10, 590), (50, 100, 500), (100, 600, 0)]:
        clock.now = seconds  # resumed at step 40: the steps before it took this pod no time
        progress.update(step=step, steps=100)
        assert progress.report().eta_seconds == eta


def test_listener_gets_each_report() -> None:
    reports: list[ProgressReport] = []
    Progress("train", reports.append).update(percent=5)
    assert [report.percent for report in reports] == [5]


def test_metrics_omit_unknown_values() -> None:
    text = render_metrics(ProgressReport(stage="train", percent=5, loss=1.5)).decode()
    assert 'tuneyard_train_loss{stage="train"} 1.5' in text
    assert 'tuneyard_stage_percent{stage="train"} 5.0' in text
    assert "tokens_per_second" not in text


def test_http_endpoints() -> None:
    progress = Progress("train")
    progress.update(percent=7, step=1, steps=2)
    server = serve_progress(progress, 0)
    assert server is not None
    port = int(server.server_address[1])
    unknown = dict.fromkeys(("loss", "validationLoss", "tokensPerSecond", "etaSeconds", "message", "trackingUrl"))
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
