"""What is observed of a ModelServer before it is planned."""

from collections.abc import Mapping
from typing import NamedTuple

from tuneyard_api.contracts.serving import Speculation
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.machinery.plan import Rejection


class World(NamedTuple):
    """All that a plan is made from."""

    server: Json  # the ModelServer
    deployments: list[Json] = []
    pods: list[Json] = []
    service: Json | None = None  # the Service with the ModelServer's name, whoever owns it
    budget: Json | None = None  # the ModelServer's PodDisruptionBudget
    job: Json | None = None  # the FineTuneJob that the ModelServer follows
    warnings: Mapping[str, str] = {}  # by uid, the last warning event about each pod that does not start
    quotas: str = ""  # a hash of what the namespace's ResourceQuotas allow and what is used of it
    turn: int | None = None  # how many ModelServers come before this one in an upgrade; None: it is not in line
    speculation: Speculation | None = None  # what the pods have guessed; None: not known
    seconds_since_last_event: float = 0.0  # about the server, its children or their warnings
    rejection: Rejection | None = None  # the API server rejected an object of the previous plan
