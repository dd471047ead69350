"""Kinds of the API server and where their objects are found."""

from typing import Final, NamedTuple


class Resource(NamedTuple):
    """One kind. `api_version` is group/version, or v1 alone in the core group."""

    api_version: str
    kind: str
    plural: str
    propagation: str = "Background"  # of a deletion: what happens to the objects that it owns

    @property
    def group(self) -> str:
        """The API group, empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def root(self) -> str:
        """The path of the group and version."""
        return f"/{'apis' if self.group else 'api'}/{self.api_version}"


class Source(NamedTuple):
    """A set of objects of one kind; an empty namespace means all namespaces."""

    kind: str
    namespace: str = ""
    labels: str = ""
    fields: str = ""

    def query(self) -> dict[str, str]:
        """The parameters of a list or watch request."""
        selectors = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {key: value for key, value in selectors.items() if value}


CONFIG_MAP: Final = Resource("v1", "ConfigMap", "configmaps")
EVENT: Final = Resource("v1", "Event", "events")
POD: Final = Resource("v1", "Pod", "pods")
RESOURCE_QUOTA: Final = Resource("v1", "ResourceQuota", "resourcequotas")
SERVICE: Final = Resource("v1", "Service", "services")
# In the foreground: a successor must not meet the pods of the object that was deleted.
JOB: Final = Resource("batch/v1", "Job", "jobs", "Foreground")
DEPLOYMENT: Final = Resource("apps/v1", "Deployment", "deployments", "Foreground")
POD_DISRUPTION_BUDGET: Final = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
LEASE: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
