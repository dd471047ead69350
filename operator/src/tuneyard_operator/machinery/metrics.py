"""What /metrics tells, beside the process' own figures (memory, CPU, open files)."""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

RECONCILES: Final = Histogram(
    "tuneyard_reconcile_duration_seconds",
    "One reconcile, from the first look to the last write",
    ["kind"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2.5, 10, 30),
)
RETRIES: Final = Counter("tuneyard_reconcile_retries", "Reconciles that failed and are tried again", ["kind", "reason"])
API_REQUESTS: Final = Counter(
    "tuneyard_api_requests", "Requests to the API server, by Kubernetes' verbs", ["verb", "resource", "code"]
)
RESUMES: Final = Counter(
    "tuneyard_informer_resumes", "Watches that went on where the one before had ended or broken off", ["kind"]
)
# From seconds of adopting to a week of training.
STAGES: Final = Histogram(
    "tuneyard_stage_duration_seconds",
    "A stage's Job, from its start to its success",
    ["stage"],
    buckets=(5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600, 168 * 3600),
)


class StateCollector(Collector):
    """Gauges that are asked for at each scrape; what they ask keeps count, so a scrape scans nothing."""

    def __init__(self, depths: Callable[[], Mapping[str, int]], states: Callable[[str], Count[str]]) -> None:
        self._depths = depths
        self._states = states

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield _gauge("tuneyard_workqueue_depth", "Keys that wait for a worker", "kind", self._depths())
        yield _gauge("tuneyard_finetunejobs", "FineTuneJobs by phase", "phase", self._states("FineTuneJob"))
        yield _gauge("tuneyard_modelservers", "ModelServers that serve", "available", self._states("ModelServer"))


def _gauge(name: str, what: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family
