"""ModelServers that roll out in a simulated cluster in which operator, controllers and kubelet work."""

from collections.abc import Callable
from typing import Any

from support.kubelet import digest
from support.serving import Serving
from tuneyard_operator.machinery.objects import condition, is_condition_true
from tuneyard_operator.machinery.plan import Plan


def served_with(gpus: int, **spec: Any) -> Serving:
    """A ModelServer that serves OLD on nodes with so many GPUs."""
    cluster = Serving(**spec)
    cluster.kubelet.gpus = gpus
    work(cluster, 30)
    assert is_condition_true(cluster.server, "Available")
    return cluster


def work(cluster: Serving, seconds: int, until: Callable[[], bool] = lambda: False) -> Plan:
    """Operator, controllers and kubelet work for so long, or until something holds."""
    for _ in range(0, seconds, 5):
        step = cluster.reconcile()
        cluster.controllers_run()
        cluster.wait(5)
        if until():
            break
    return step


def running(cluster: Serving) -> list[str]:
    """The digests that ready pods serve."""
    return sorted(digest(pod) for pod in cluster.kubelet.ready())


def message(cluster: Serving, kind: str) -> str:
    return str(condition(cluster.server, kind).get("message", ""))


def reason(cluster: Serving) -> str:
    return str(cluster.server["status"].get("reason", ""))
