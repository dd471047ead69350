"""An upgrade of the operator changes every ModelServer's pods; they are rolled out a few at a time.

The turn of a server follows from what the statuses of all of them say, so it outlives the operator process.
"""

from typing import Final

from tuneyard_api import reasons
from tuneyard_operator.machinery.cache import Reader
from tuneyard_operator.machinery.objects import Json, Key, condition, key_of
from tuneyard_operator.modelserver.artifact import Waiting

# Under which servers are found, in all namespaces.
ROLLING: Final = Key("Upgrade", "", "rolling")
WAITING: Final = Key("Upgrade", "", "waiting")


def upgrade(server: Json) -> list[Key]:
    """Under which of the keys above the cache finds the server."""
    reason = condition(server, "Progressing").get("reason")
    if reason == reasons.WAITING_FOR_TURN:
        return [WAITING]
    # A server that has never served is no upgrade.
    return [ROLLING] if reason == reasons.ROLLING_OUT and "served" in server.get("status", {}) else []


def turn(server: Json, cluster: Reader) -> int | None:
    """How many ModelServers come before this one: those that roll out, and those before it in line.

    None where it is not in line. A server gets in line first and starts later, so that all have seen each other.
    """
    key = key_of(server)
    line = cluster.child_keys(key.kind, WAITING)
    if key not in line:
        return None
    return len(cluster.child_keys(key.kind, ROLLING)) + line.index(key)


def waiting(limit: int) -> Waiting:
    message = (
        f"waits until fewer than {limit} other ModelServers roll out the upgrade of the operator "
        "(the operator's setting maxConcurrentRollouts)"
    )
    return Waiting(reasons.WAITING_FOR_TURN, message)
