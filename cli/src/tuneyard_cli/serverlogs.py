"""The logs of a ModelServer's replicas."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from tuneyard_cli.kubectl import NotFound
from tuneyard_cli.logs import Lines
from tuneyard_cli.objects import Json, name, status

CONTAINERS: Final = ("fetch", "engine", "proxy")  # in the order in which they start


class Cluster(Protocol):
    """What the logs need of kubectl."""

    def server_pods(self, server: str) -> list[Json]: ...
    def log(self, *what: str) -> Iterator[str]: ...
    def follow_server(self, server: str, container: str) -> Iterator[str]: ...


def print_server_logs(cluster: Cluster, server: str, wanted: Sequence[str], lines: Lines) -> int:
    """Prints the logs that exist now, replica after replica, and returns the number of containers that have one."""
    count = 0
    for pod in sorted(cluster.server_pods(server), key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        for container in (each for each in CONTAINERS if each in wanted and has_log(pod, each)):
            count += 1
            try:
                for text in cluster.log(name(pod), "-c", container):
                    lines.add(container, name(pod), text)
            except NotFound:
                break  # the pod was deleted meanwhile
    return count


def follow_server_logs(cluster: Cluster, server: str, container: str, lines: Lines) -> None:
    """Prints the log of that container of all replicas, as it comes; kubectl writes the pod in front of each line."""
    for text in cluster.follow_server(server, container):
        prefix, _, rest = text.partition("] ")
        lines.add(container, prefix.removeprefix("[pod/").partition("/")[0], rest)


def has_log(pod: Json, container: str) -> bool:
    """Whether it runs or has ended, now or before a restart."""
    listed = [*status(pod).get("initContainerStatuses", []), *status(pod).get("containerStatuses", [])]
    states = [each.get("state", {}) | each.get("lastState", {}) for each in listed if each["name"] == container]
    return any(state.keys() & {"running", "terminated"} for state in states)
