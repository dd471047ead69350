"""kubectl tuneyard: calling kubectl, following logs from pod to pod, waiting for the end."""

import io
import json
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from support.finetuning import FineTuning
from support.podstatus import termination
from support.reports import CHAIN, PUBLISHED
from tuneyard_cli import screen
from tuneyard_cli.kubectl import NOT_INSTALLED, KubectlError, NotFound, Unavailable, explain
from tuneyard_cli.logs import Lines, follow_logs, is_over, print_logs
from tuneyard_cli.main import main
from tuneyard_cli.waiting import shown_on, wait_for_end

Json = dict[str, Any]

# As kubectl 1.34 printed them.
FORBIDDEN = (
    'Error from server (Forbidden): finetunejobs.tuneyard.dev is forbidden: User "u" cannot list resource '
    '"finetunejobs" in API group "tuneyard.dev" in the namespace "default"\n'
)
REFUSED = (
    'E1124 19:08:21.162305   12345 memcache.go:265] "Unhandled Error" err="couldn\'t get current server API group"\n'
    "The connection to the server 127.0.0.1:34189 was refused - did you specify the right host or port?\n"
)


@pytest.mark.parametrize(
    ("printed", "kind", "message"),
    [
        ('error: the server doesn\'t have a resource type "finetunejobs"\n', Unavailable, NOT_INSTALLED),
        (FORBIDDEN, KubectlError, 'You have no permission: finetunejobs.tuneyard.dev is forbidden: User "u" cannot'),
        (REFUSED, Unavailable, "The connection to the server 127.0.0.1:34189 was refused"),
        ('Error from server (NotFound): pods "x" not found\n', NotFound, 'pods "x" not found'),
        ("error: You must be logged in to the server (Unauthorized)\n", KubectlError, "You must be logged in"),
        ("error: context was not found for specified context: x\n", KubectlError, "context was not found"),
        ("", KubectlError, "printed nothing"),
    ],
)
def test_explain(printed: str, kind: type[KubectlError], message: str) -> None:
    error = explain(printed)
    assert type(error) is kind
    assert message in str(error)
    assert "\n" not in str(error)


class Scripted:
    """A cluster that returns the next state at each read, and the last one from then on."""

    def __init__(self, *looks: tuple[Json | KubectlError, list[Json], dict[str, list[str]]]) -> None:
        self._looks = list(looks)
        self._pods: list[Json] = []
        self._logs: dict[str, list[str]] = {}
        self.read: list[str] = []  # the pods whose log was asked for

    def find(self, kind: str, name: str) -> Json | None:
        job, self._pods, self._logs = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(job, KubectlError):
            raise job
        return job

    def pods(self, job: str) -> list[Json]:
        return self._pods

    def log(self, *what: str) -> Iterator[str]:
        pod = what[0]
        self.read.append(pod)
        if pod not in self._logs:
            raise NotFound(pod)
        yield from self._logs[pod]


def pod(stage: str, number: int, state: str | None) -> Json:
    metadata = {
        "name": f"{stage}-{number}",
        "uid": f"{stage}-{number}",
        "creationTimestamp": f"2030-01-02T03:04:0{number}Z",
        "labels": {"tuneyard.dev/stage": stage},
    }
    container = [{"name": "stage", "state": {state: {}}}] if state else []
    return {"metadata": metadata, "status": {"containerStatuses": container}}


def a_run() -> tuple[Json, Json]:
    """A job that trains, and the same one at its end."""
    cluster = FineTuning().prepared("export", "evaluate")
    cluster.step()
    cluster.run("train").step()
    running = deepcopy(cluster.job)
    cluster.exit("train", 0, termination("Completed"), "Completed").complete_job("train").step()
    cluster.complete("publish", PUBLISHED).step()
    return running, cluster.job


def failed_run() -> Json:
    cluster = FineTuning()
    cluster.step()
    cluster.run("prepare").exit("prepare", 65, termination("InvalidJSON", "line 3", "Mend it"))
    cluster.fail_job("prepare").step()
    return cluster.job


RUNNING, ENDED = a_run()


def test_logs_are_in_order() -> None:
    pods = [pod("train", 3, "running"), pod("train", 2, "terminated"), pod("prepare", 1, "terminated")]
    logs = {each["metadata"]["name"]: [f"{each['metadata']['name']}\n"] for each in pods}
    cluster = Scripted((RUNNING, [*pods, pod("export", 4, "waiting")], logs))
    cluster.find("", "")
    written: list[str] = []
    assert print_logs(cluster, RUNNING, CHAIN, Lines(written.append)) == 3
    assert [line for line in written if "==>" not in line] == ["prepare-1\n", "train-2\n", "train-3\n"]
    assert written[0] == "==> prepare, pod prepare-1\n"
    assert print_logs(cluster, RUNNING, ["export"], Lines(written.append)) == 0


def test_follow_prints_each_line_once() -> None:
    """Although the connection breaks, the training pod is replaced, and the API server does not answer for a while."""
    over, first, second = pod("prepare", 0, "terminated"), pod("train", 1, "running"), pod("train", 2, "running")
    cluster = Scripted(
        (RUNNING, [over, first], {"prepare-0": ["clean\n"], "train-1": ["step 1\n"]}),
        (RUNNING, [over, first], {"train-1": ["step 1\n", "step 2\n"]}),
        (Unavailable("away"), [], {}),
        (RUNNING, [second], {"train-2": ["step 3\n"]}),
        (
            ENDED,
            [pod("train", 2, "terminated"), pod("publish", 3, "terminated")],
            {"train-2": ["step 3\n", "step 4\n"], "publish-3": ["released\n"]},
        ),
    )
    written: list[str] = []
    follow_logs(cluster, "x", CHAIN, Lines(written.append), pause=0)
    assert cluster.read.count("prepare-0") == 1, "what has ended is not read again"
    assert written == [
        "==> prepare, pod prepare-0\n",
        "clean\n",
        "==> train, pod train-1\n",
        "step 1\n",
        "step 2\n",
        "==> train, pod train-2\n",
        "step 3\n",
        "step 4\n",
        "==> publish, pod publish-3\n",
        "released\n",
    ]


def test_follow_one_stage() -> None:
    cluster = Scripted((RUNNING, [pod("prepare", 1, "terminated")], {"prepare-1": ["clean\n"]}))
    written: list[str] = []
    follow_logs(cluster, "x", ["prepare"], Lines(written.append), pause=0)
    assert written[-1] == "clean\n"


def test_end_of_an_earlier_spec_is_not_over() -> None:
    before = failed_run()
    changed = before | {"metadata": before["metadata"] | {"generation": 2}}
    for wanted in (CHAIN, ["prepare"]):
        assert is_over(before, wanted)
        assert not is_over(changed, wanted)


def test_wait_retries() -> None:
    looks: list[Json | KubectlError] = [RUNNING, Unavailable("away"), RUNNING, ENDED]
    remarks = []

    def look() -> Json:
        found = looks.pop(0)
        if isinstance(found, KubectlError):
            raise found
        return found

    ended = wait_for_end(look, 5, lambda job, remark: remarks.append(remark), pause=0)
    assert ended == ENDED
    assert remarks == ["retrying: away", "", ""]


def test_wait_times_out() -> None:
    def gone() -> Json:
        raise NotFound("x")

    with pytest.raises(TimeoutError):
        wait_for_end(lambda: RUNNING, 0.01, lambda job, remark: None, pause=0)
    with pytest.raises(NotFound):
        wait_for_end(gone, 5, lambda job, remark: None, pause=0)


def test_lines_without_a_terminal() -> None:
    file = io.StringIO()
    with shown_on(screen.console(file)) as show:
        for job, remark in [(RUNNING, ""), (RUNNING, ""), (RUNNING, "away"), (ENDED, "")]:
            show(job, remark)
    said_there = [line.split(" ", 1)[1] for line in file.getvalue().splitlines()]
    assert said_there == ["Training, train is Running", "away", "Succeeded"]


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl on the PATH: notes its arguments in `asked`, prints `answer`, or fails with `trouble`."""
    program = tmp_path / "kubectl"
    program.write_text(
        f'#!/bin/sh\ncd {tmp_path}\necho "$@" >>asked\n'
        "if [ -f trouble ]; then cat trouble >&2; exit 1; fi\n"
        'case "$2" in finetunejobs*) cat answer ;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize(("job", "code"), [(ENDED, 0), (failed_run(), 1), (RUNNING, 2)])
def test_exit_code_of_wait(kubectl: Path, job: Json, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    (kubectl / "answer").write_text(json.dumps(job))
    assert main(["wait", "x", "--timeout", "0s"]) == code
    printed = capsys.readouterr()
    assert ("InvalidJSON: line 3. Mend it." in printed.out) == (code == 1)
    assert ("not ended in time" in printed.err) == (code == 2)


@pytest.mark.parametrize("arguments", [["-n", "team", "status", "x"], ["status", "x", "--namespace=team"]])
def test_status_reads_both_kinds(kubectl: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (kubectl / "answer").write_text(json.dumps(RUNNING))
    assert main([*arguments, "--context", "far"]) == 0
    assert "FineTuneJob team/x  Training" in capsys.readouterr().out
    asked = (kubectl / "asked").read_text().splitlines()
    kinds = ("finetunejobs.tuneyard.dev", "modelservers.tuneyard.dev")
    assert asked == [f"get {kind} x --ignore-not-found -o json --context=far --namespace=team" for kind in kinds]


@pytest.mark.parametrize("command", [["status", "x"], ["logs", "x"], ["wait", "x"], ["report", "x"]])
def test_errors_are_one_line_and_exit_1(kubectl: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (kubectl / "answer").write_text("")
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("there is no FineTuneJob ")
    (kubectl / "trouble").write_text(FORBIDDEN)
    assert main(command) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("You have no permission: ")
    assert printed.err.count("\n") == 1


def test_wrong_option_exits_1() -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["wait", "x", "--timeout", "soon"])


def test_without_kubectl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["status"]) == 1
    assert capsys.readouterr().err == "kubectl is not on the PATH\n"
