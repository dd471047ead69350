"""Events wake keys, and do nothing else. The only module that imports kopf."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import kopf

from tuneyard_api import names
from tuneyard_operator.objects import Json, label, name, namespace
from tuneyard_operator.reconcile import Key
from tuneyard_operator.references import References
from tuneyard_operator.settings import Settings

CHILDREN: Final = (("batch", "v1", "jobs"), ("", "v1", "pods"), ("apps", "v1", "deployments"), ("", "v1", "services"))
LOGIN_SECONDS: Final = 30
Wake = Callable[[Key], None]


async def watch(settings: Settings, wake: Wake, ready: asyncio.Event) -> None:
    """Watches until it is cancelled or told by a signal to end."""
    await kopf.operator(
        registry=registry(wake),
        settings=kopf_settings(),
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        standalone=True,
        ready_flag=ready,
    )


def kopf_settings() -> kopf.OperatorSettings:
    """kopf writes nothing to the cluster: no events, no peering, no annotations, no finalizers."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 60
    managed = ",".join(f"{key}={value}" for key, value in names.MANAGED_BY.items())
    for group, version, plural in CHILDREN:
        settings.watching.label_selectors[group, version, plural] = managed
    # One line for each event would drown what the operator has to say.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    return settings


def registry(wake: Wake) -> kopf.OperatorRegistry:
    handlers = kopf.OperatorRegistry()
    references = References()

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(names.GROUP, names.VERSION, "finetunejobs", registry=handlers)
    async def on_fine_tune_job(body: kopf.Body, **_: Any) -> None:
        key = Key("FineTuneJob", namespace(_plain(body)), name(_plain(body)))
        wake(key)
        for follower in references.followers(key):
            wake(follower)

    @kopf.on.event(names.GROUP, names.VERSION, "modelservers", registry=handlers)
    async def on_model_server(body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002 - kopf's name
        server = _plain(body)
        references.note(server, gone=type == "DELETED")
        wake(Key("ModelServer", namespace(server), name(server)))

    async def on_child(body: kopf.Body, **_: Any) -> None:
        if owner := owner_key(_plain(body)):
            wake(owner)

    for group, version, plural in CHILDREN:
        kopf.on.event(group, version, plural, registry=handlers)(on_child)
    return handlers


def owner_key(child: Json) -> Key | None:
    """The one of ours that a child belongs to, by its labels."""
    for key, kind in ((names.LABEL_FINETUNEJOB, "FineTuneJob"), (names.LABEL_MODELSERVER, "ModelServer")):
        if owner := label(child, key):
            return Key(kind, namespace(child), owner)
    return None


def _plain(body: kopf.Body) -> Json:
    return dict(body)
