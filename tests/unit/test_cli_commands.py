"""kubectl tuneyard for both kinds: JSON, logs and waiting of servers, suspend, resume and retry, completion."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.builders import NEW
from support.finetuning import FineTuning
from support.podstatus import termination
from support.serving import Serving, serving
from tuneyard_cli.completion import candidates
from tuneyard_cli.logs import Lines
from tuneyard_cli.main import main
from tuneyard_cli.serverlogs import follow_server_logs, print_server_logs
from tuneyard_cli.view import line, succeeded

Json = dict[str, Any]


def trained() -> Json:
    return FineTuning().prepared("train", "export", "evaluate").finish("publish").job


def failed() -> Json:
    cluster = FineTuning()
    cluster.step()
    cluster.run("prepare").exit("prepare", 65, termination("InvalidJSON", "line 3")).fail_job("prepare").step()
    return cluster.job


def suspended() -> Json:
    cluster = FineTuning(suspend=True)
    cluster.step()
    return cluster.job


def rolled_back() -> Json:
    cluster = serving().wants(NEW)
    cluster.step(60)
    cluster.fail_fetch(NEW, "ArtifactCorrupt", 65, restarts=4)
    cluster.step(90)
    return cluster.server


def coming_up() -> Json:
    cluster = Serving()
    cluster.step(0)
    return cluster.server


Answer = Callable[..., Path]
KUBECTL = """#!/bin/sh
cd {}
printf '%s\\n' "$*" >>asked
case "$2" in
finetunejobs*) cat job ;;
modelservers*) cat server ;;
esac
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """A kubectl on the PATH that has these objects, and notes its arguments in `asked`."""
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL.format(tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def answer(job: Json | None = None, server: Json | None = None) -> Path:
        for name, obj in (("job", job), ("server", server)):
            (tmp_path / name).write_text(json.dumps(obj) if obj else "")
        return tmp_path / "asked"

    return answer


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (trained(), True),
        (failed(), False),
        (suspended(), None),
        (serving().server, True),
        (coming_up(), None),
        (rolled_back(), False),
    ],
)
def test_succeeded(obj: Json, expected: bool | None) -> None:
    assert succeeded(obj) is expected
    changed = obj | {"metadata": obj["metadata"] | {"generation": 99}}
    assert succeeded(changed) is None, "of an earlier spec"


def test_line_of_a_server() -> None:
    assert line(coming_up()).startswith("Pending: revision ")
    assert line(rolled_back()).startswith("Degraded: Failed: ArtifactCorrupt")
    assert line(serving().server) == "Available"


@pytest.mark.parametrize(
    ("objects", "code", "shown"),
    [
        ({"job": trained(), "server": serving().server}, 0, [True, True]),
        ({"job": failed(), "server": serving().server}, 1, False),
        ({"job": trained(), "server": rolled_back()}, 1, [True, False]),
        ({"server": coming_up()}, 2, None),
    ],
)
def test_wait_for_job_and_server(
    objects: Json, code: int, shown: object, kubectl: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl(**objects)
    assert main(["wait", "bot", "--timeout", "0s", "-o", "json"]) == code
    printed = json.loads(capsys.readouterr().out)
    found = [each["succeeded"] for each in printed] if isinstance(printed, list) else printed["succeeded"]
    assert found == shown


def test_status_as_json(kubectl: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl(failed(), rolled_back())
    assert main(["status", "ms/bot", "-o", "json"]) == 0
    server = json.loads(capsys.readouterr().out)
    assert (server["kind"], server["state"], server["succeeded"]) == ("ModelServer", "Degraded", False)
    assert server["remarks"][0].startswith("Failed: ArtifactCorrupt: ")
    assert main(["status", "bot", "-o", "json"]) == 0
    job, _ = json.loads(capsys.readouterr().out)
    assert (job["kind"], job["state"], job["status"]["phase"]) == ("FineTuneJob", "Failed", "Failed")


def test_list_as_json(kubectl: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl({"items": [trained()]}, {"items": [serving().server]})
    assert main(["status", "-A", "-o", "json"]) == 0
    assert [each["kind"] for each in json.loads(capsys.readouterr().out)] == ["FineTuneJob", "ModelServer"]


@pytest.mark.parametrize(
    ("command", "patched"),
    [("suspend", {"spec": {"suspend": True}}), ("resume", {"spec": {"suspend": False}})],
)
def test_suspend_and_resume(command: str, patched: Json, kubectl: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    asked = kubectl(suspended())
    assert main([command, "x", "-n", "team"]) == 0
    last = asked.read_text().splitlines()[-1]
    assert last == f"patch finetunejobs.tuneyard.dev x --type=merge -p {json.dumps(patched)} --namespace=team"
    assert capsys.readouterr().out.startswith("FineTuneJob x ")


def test_suspended_job_says_so(kubectl: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl(suspended())
    assert main(["status", "x"]) == 0
    assert "Go on: kubectl tuneyard resume x -n team" in capsys.readouterr().out


def test_retry_tries_what_failed(kubectl: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    asked = kubectl(trained(), rolled_back())
    assert main(["retry", "bot", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "ModelServer"
    (patched,) = [text for text in asked.read_text().splitlines() if text.startswith("patch")]
    assert patched.startswith("patch modelservers.tuneyard.dev bot --type=merge -p")
    assert '{"metadata": {"annotations": {"tuneyard.dev/retry": "2' in patched


def test_nothing_to_retry(kubectl: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl(trained())
    assert main(["retry", "x"]) == 1
    assert "has not failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ms/x", 'there is no ModelServer "x" in this namespace'),
        ("x", 'there is no FineTuneJob and no ModelServer "x" in this namespace'),
        ("pod/x", "write ftj/NAME or ms/NAME"),
    ],
)
def test_not_found(name: str, says: str, kubectl: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl()
    assert main(["status", name]) == 1
    assert says in capsys.readouterr().err


class Replicas:
    """A cluster with two replicas of a ModelServer, of which the second still fetches."""

    def server_pods(self, server: str) -> list[Json]:
        return [self._pod("bot-2", fetch="running"), self._pod("bot-1", fetch="terminated", engine="running")]

    def _pod(self, name: str, **states: str) -> Json:
        found = [{"name": container, "state": {state: {}}} for container, state in states.items()]
        status = {"initContainerStatuses": found[:1], "containerStatuses": found[1:]}
        return {"metadata": {"name": name, "creationTimestamp": f"2030-01-0{name[-1]}T00:00:00Z"}, "status": status}

    def log(self, *what: str) -> Iterator[str]:
        pod, _, container = what
        yield f"{container} of {pod}\n"

    def follow_server(self, server: str, container: str) -> Iterator[str]:
        yield f"[pod/{server}-1/{container}] one [1] two\n"


def test_logs_of_a_server() -> None:
    written: list[str] = []
    assert print_server_logs(Replicas(), "bot", ("fetch", "engine", "proxy"), Lines(written.append)) == 3
    assert written == [
        *("==> fetch, pod bot-1\n", "fetch of bot-1\n"),
        *("==> engine, pod bot-1\n", "engine of bot-1\n"),
        *("==> fetch, pod bot-2\n", "fetch of bot-2\n"),
    ]
    assert print_server_logs(Replicas(), "bot", ("proxy",), Lines(written.append)) == 0


def test_follow_a_server_as_json() -> None:
    written: list[str] = []
    follow_server_logs(Replicas(), "bot", "engine", Lines(written.append, as_json=True))
    assert [json.loads(each) for each in written] == [{"part": "engine", "pod": "bot-1", "line": "one [1] two"}]


@pytest.mark.parametrize(
    ("words", "expected", "asked"),
    [
        (["st"], ["status"], None),
        (["re"], ["report", "resume", "retry"], None),
        (["wait", ""], ["my-bot", "other"], []),
        (["-n", "team", "status", "my"], ["my-bot"], ["-n", "team"]),
        (["logs", "my-bot", "--stage", "tr"], ["train"], None),
        (["logs", "my-bot", "--st"], ["--stage"], None),
        (["wait", "my-bot", "-o", ""], ["json", "text"], None),
    ],
)
def test_completion(words: list[str], expected: list[str], asked: list[str] | None) -> None:
    seen: list[list[str]] = []

    def names(before: Any) -> list[str]:
        seen.append(list(before))
        return ["my-bot", "other"]

    assert candidates(words, names) == expected
    assert seen == ([] if asked is None else [asked])
