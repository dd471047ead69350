"""What an operator process is told at its start."""

import os
import secrets
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

PREFIX: Final = "TUNEYARD_"


class Settings(NamedTuple):
    """Images are full references; times are in seconds."""

    trainer_image: str
    server_image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()  # empty: the whole cluster
    identity: str = ""  # in the election; no two processes may have the same
    lease_namespace: str = "default"
    lease_name: str = "tuneyard"
    log_level: str = "INFO"
    log_format: str = "text"  # or json
    health_port: int = 8081
    workers: int = 8
    poll: float = 3.0  # between two looks at a running stage's progress
    retire: float = 10.0  # how long a revision that no longer serves is kept, for connections that still know it


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Reads TUNEYARD_TRAINER_IMAGE and so on.

    Raises SystemExit, naming the variable, when an image is missing.
    """
    return Settings(
        trainer_image=_required(environment, "TRAINER_IMAGE"),
        server_image=_required(environment, "SERVER_IMAGE"),
        image_pull_policy=environment.get(f"{PREFIX}IMAGE_PULL_POLICY") or "IfNotPresent",
        image_pull_secrets=_words(environment, "IMAGE_PULL_SECRETS"),
        namespaces=_words(environment, "NAMESPACES"),
        identity=f"{environment.get(f'{PREFIX}POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}",
        lease_namespace=environment.get(f"{PREFIX}POD_NAMESPACE") or "default",
        lease_name=environment.get(f"{PREFIX}LEASE") or "tuneyard",
        health_port=int(environment.get(f"{PREFIX}HEALTH_PORT") or 8081),
        log_level=(environment.get(f"{PREFIX}LOG_LEVEL") or "INFO").upper(),
        log_format=(environment.get(f"{PREFIX}LOG_FORMAT") or "text").lower(),
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    if value := environment.get(PREFIX + name):
        return value
    raise SystemExit(f"{PREFIX}{name} is not set: the image of the pods that the operator creates")


def _words(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(environment.get(PREFIX + name, "").replace(",", " ").split())
