"""The logs of a FineTuneJob's pods, stage after stage."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from tuneyard_api.names import LABEL_STAGE, STAGES
from tuneyard_cli.kubectl import FINE_TUNE_JOBS, NotFound, Unavailable
from tuneyard_cli.objects import Json, has_ended, is_seen, name, stages, status

CONTAINER: Final = "stage"
PAUSE_SECONDS: Final = 2.0
Write = Callable[[str], None]


class Cluster(Protocol):
    """What is asked of kubectl."""

    def find(self, kind: str, name: str) -> Json | None: ...
    def pods(self, job: str) -> list[Json]: ...
    def log(self, pod: str, *options: str) -> Iterator[str]: ...


class Printer:
    """Prints each line of each pod once, however often it is asked to."""

    def __init__(self, cluster: Cluster, write: Write) -> None:
        self._cluster = cluster
        self._write = write
        self._printed: Counter[str] = Counter()

    def print(self, pod: Json, *options: str) -> None:
        key = pod["metadata"]["uid"]
        if not self._printed[key]:
            self._write(f"==> {stage_of(pod)}, pod {name(pod)}\n")
        try:
            for number, line in enumerate(self._cluster.log(name(pod), "-c", CONTAINER, *options)):
                if number >= self._printed[key]:
                    self._write(line)
                    self._printed[key] = number + 1
        except NotFound:
            return  # deleted between two looks


def print_logs(cluster: Cluster, job: Json, wanted: Sequence[str], write: Write) -> int:
    """All that is there now; returns of how many pods."""
    printer = Printer(cluster, write)
    pods = started(cluster.pods(name(job)), wanted)
    for pod in pods:
        printer.print(pod)
    return len(pods)


def follow_logs(cluster: Cluster, job: str, wanted: Sequence[str], write: Write, pause: float = PAUSE_SECONDS) -> None:
    """Goes on until the job, or the last of the wanted stages, has ended."""
    printer = Printer(cluster, write)
    whole: set[str] = set()  # pods whose last line was read
    ended = False
    while not ended:
        try:
            ended = is_over(cluster.find(FINE_TUNE_JOBS, job), wanted)
            for pod in started(cluster.pods(job), wanted):
                if (key := pod["metadata"]["uid"]) not in whole:
                    printer.print(pod, "-f")
                    if "terminated" in container_state(pod):
                        whole.add(key)
        except Unavailable:
            ended = False  # the log goes on where it stopped
        if not ended:
            time.sleep(pause)


def is_over(job: Json | None, wanted: Sequence[str]) -> bool:
    """No pod of these stages will come any more."""
    if job is None or has_ended(job):
        return True
    last = next(each for each in stages(job) if each["name"] == wanted[-1])
    return is_seen(job) and last["state"] in ("Succeeded", "Adopted", "Failed")


def started(pods: Sequence[Json], wanted: Sequence[str]) -> list[Json]:
    """The pods of these stages that have a log, in the order in which they ran."""
    found = [pod for pod in pods if stage_of(pod) in wanted and container_state(pod).keys() & {"running", "terminated"}]
    return sorted(found, key=lambda pod: (STAGES.index(stage_of(pod)), pod["metadata"]["creationTimestamp"]))


def stage_of(pod: Json) -> str:
    return str(pod["metadata"].get("labels", {}).get(LABEL_STAGE, ""))


def container_state(pod: Json) -> Json:
    listed = status(pod).get("containerStatuses", [])
    state: Json = next((each.get("state", {}) for each in listed if each["name"] == CONTAINER), {})
    return state
