"""Which of our objects are to be looked at again when something has changed."""

from tuneyard_operator.machinery.cache import Cache, owner_key
from tuneyard_operator.machinery.objects import Json, Key, key_of, name, namespace


def woken_by(thing: Json, cache: Cache) -> list[Key]:
    """A child wakes its owner, a FineTuneJob the ModelServers that follow it, and a Service who waits for its name."""
    key = key_of(thing)
    if key.kind == "ModelServer":
        return [key]
    if key.kind == "FineTuneJob":
        servers = cache.child_names("ModelServer", key)
        return [key, *(Key("ModelServer", key.namespace, each) for each in servers)]
    if owner := owner_key(thing):
        return [owner]
    return [Key("ModelServer", namespace(thing), name(thing))] if key.kind == "Service" else []
