"""What /metrics exposes, beside the process' own figures (memory, CPU, open files).

The names have no prefix here: `Exporter` adds it, and is registered by the program.
"""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tuneyard_operator.machinery.controller import Controllers

RECONCILES: Final = Histogram(
    "reconcile_duration_seconds",
    "One reconcile, from the observation to the last write",
    ["kind"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2.5, 10, 30),
    registry=None,
)
RETRIES: Final = Counter(
    "reconcile_retries", "Reconciles that failed and are retried", ["kind", "reason"], registry=None
)
API_REQUESTS: Final = Counter(
    "api_requests", "Requests to the API server, by Kubernetes' verbs", ["verb", "resource", "code"], registry=None
)
RESUMES: Final = Counter(
    "informer_resumes", "Watches that resumed where the one before had ended", ["kind"], registry=None
)


class Exporter(Collector):
    """The machinery's metrics, with a prefix, and the gauges that controllers declare.

    Gauges are read at each scrape from counts that the queue and the cache keep, so a scrape scans nothing.
    """

    def __init__(
        self,
        prefix: str,
        controllers: Controllers,
        depths: Callable[[], Mapping[str, int]],
        states: Callable[[str], Count[str]],
    ) -> None:
        self._prefix = prefix
        self._gauges = [(each.kind.kind, each.state) for each in controllers if each.state]
        self._depths = depths
        self._states = states

    def collect(self) -> Iterable[Metric]:
        for metric in (RECONCILES, RETRIES, API_REQUESTS, RESUMES):
            yield from (_prefixed(family, self._prefix) for family in metric.collect())
        yield _gauge(f"{self._prefix}workqueue_depth", "Keys that wait for a worker", "kind", self._depths())
        for kind, gauge in self._gauges:
            yield _gauge(gauge.name, gauge.help, gauge.label, self._states(kind))


def _prefixed(family: Metric, prefix: str) -> Metric:
    """The family, which collect() has just created, under another name."""
    family.name = prefix + family.name
    family.samples = [sample._replace(name=prefix + sample.name) for sample in family.samples]
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family
