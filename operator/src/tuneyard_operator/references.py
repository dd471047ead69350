"""Who follows whom: an event of a FineTuneJob wakes the ModelServers that reference it."""

from collections import defaultdict

from tuneyard_operator.objects import Json, name, namespace
from tuneyard_operator.reconcile import Key


class References:
    """Filled by the ModelServers' own events, so it is whole as soon as they have been listed."""

    def __init__(self) -> None:
        self._followers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._followed: dict[Key, Key] = {}

    def note(self, server: Json, *, gone: bool = False) -> None:
        key = Key("ModelServer", namespace(server), name(server))
        if before := self._followed.pop(key, None):
            self._followers[before].discard(key)
            if not self._followers[before]:
                del self._followers[before]
        reference = server.get("spec", {}).get("model", {}).get("fineTuneJobRef", {}).get("name")
        if reference and not gone:
            self._followed[key] = Key("FineTuneJob", key.namespace, reference)
            self._followers[self._followed[key]].add(key)

    def followers(self, job: Key) -> set[Key]:
        return set(self._followers.get(job, ()))
