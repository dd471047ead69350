"""The logs of a FineTuneJob's pods, stage after stage."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from tuneyard_api.names import LABEL_STAGE
from tuneyard_api.stages import STAGES
from tuneyard_cli.kubectl import FINE_TUNE_JOBS, NotFound, Unavailable
from tuneyard_cli.objects import Json, has_ended, is_observed, name, stages, status

CONTAINER: Final = "stage"
PAUSE_SECONDS: Final = 2.0
Write = Callable[[str], None]


class Cluster(Protocol):
    """What the logs need of kubectl."""

    def find(self, kind: str, name: str) -> Json | None: ...
    def pods(self, job: str) -> list[Json]: ...
    def log(self, *what: str) -> Iterator[str]: ...


class Lines:
    """Lines of several pods as text, below a heading for each change of the pod, or one JSON object a line."""

    def __init__(self, write: Write, *, as_json: bool = False) -> None:
        self._write = write
        self._as_json = as_json
        self._last = ("", "")

    def add(self, part: str, pod: str, line: str) -> None:
        """`part`: the stage, or the container of a server."""
        if self._as_json:
            self._write(json.dumps({"part": part, "pod": pod, "line": line.rstrip("\n")}) + "\n")
            return
        if (part, pod) != self._last:
            self._write(f"==> {part}, pod {pod}\n")
        self._last = (part, pod)
        self._write(line)


class Printer:
    """Prints each line of each pod once, although logs are read again."""

    def __init__(self, cluster: Cluster, lines: Lines) -> None:
        self._cluster = cluster
        self._lines = lines
        self._printed: Counter[str] = Counter()

    def print(self, pod: Json, *options: str) -> None:
        key = pod["metadata"]["uid"]
        try:
            for number, line in enumerate(self._cluster.log(name(pod), "-c", CONTAINER, *options)):
                if number >= self._printed[key]:
                    self._lines.add(stage_of(pod), name(pod), line)
                    self._printed[key] = number + 1
        except NotFound:
            return  # the pod was deleted meanwhile


def print_logs(cluster: Cluster, job: Json, wanted: Sequence[str], lines: Lines) -> int:
    """Prints the logs that exist now, and returns the number of their pods."""
    printer = Printer(cluster, lines)
    pods = started(cluster.pods(name(job)), wanted)
    for pod in pods:
        printer.print(pod)
    return len(pods)


def follow_logs(cluster: Cluster, job: str, wanted: Sequence[str], lines: Lines, pause: float = PAUSE_SECONDS) -> None:
    """Prints logs until the job, or the last of the wanted stages, has ended."""
    printer = Printer(cluster, lines)
    complete: set[str] = set()  # pods whose last line was read
    ended = False
    while not ended:
        try:
            ended = is_over(cluster.find(FINE_TUNE_JOBS, job), wanted)
            for pod in started(cluster.pods(job), wanted):
                if (key := pod["metadata"]["uid"]) not in complete:
                    printer.print(pod, "-f")
                    if "terminated" in container_state(pod):
                        complete.add(key)
        except Unavailable:
            ended = False  # the log is continued where it stopped
        if not ended:
            time.sleep(pause)


def is_over(job: Json | None, wanted: Sequence[str]) -> bool:
    """Whether no further pod of these stages will start."""
    if job is None or has_ended(job):
        return True
    states = {stage["name"]: stage["state"] for stage in stages(job)}
    return is_observed(job) and states.get(wanted[-1], "Succeeded") in ("Succeeded", "Adopted", "Failed")


def started(pods: Sequence[Json], wanted: Sequence[str]) -> list[Json]:
    """The pods of these stages that have a log, in the order in which they ran."""
    found = [pod for pod in pods if stage_of(pod) in wanted and container_state(pod).keys() & {"running", "terminated"}]
    order: dict[str, int] = {stage: index for index, stage in enumerate(STAGES)}
    return sorted(found, key=lambda pod: (order[stage_of(pod)], pod["metadata"]["creationTimestamp"]))


def stage_of(pod: Json) -> str:
    return str(pod["metadata"].get("labels", {}).get(LABEL_STAGE, ""))


def container_state(pod: Json) -> Json:
    listed = status(pod).get("containerStatuses", [])
    state: Json = next((container.get("state", {}) for container in listed if container["name"] == CONTAINER), {})
    return state
