"""The objects of a ModelServer: a Deployment per revision, and one Service."""

from datetime import datetime
from typing import Final

from tuneyard_api import names
from tuneyard_api.kinds.modelserver import ModelServerSpec
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import Json, hash8, name, namespace, owner_reference
from tuneyard_operator.modelserver.artifact import ANNOTATION, Artifact
from tuneyard_operator.modelserver.engines import ENGINES
from tuneyard_operator.pods import images, podspec
from tuneyard_operator.settings import Settings

FETCH: Final = "fetch"
ENGINE: Final = "engine"
PROXY: Final = "proxy"
SWITCHED_AT: Final = "tuneyard.dev/switched-at"
WOKEN_AT: Final = "tuneyard.dev/woken-at"
# The proxy lets streams end, then the engine stops.
GRACE_SECONDS: Final = 120

FETCH_RESOURCES: Final[Json] = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
PROXY_RESOURCES: Final[Json] = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}
RUN = podspec.scratch("run", names.RUN_DIR)
MODELS = podspec.scratch("models", "/models")
TMP = podspec.scratch("tmp", "/tmp")  # noqa: S108 - the pod's own
SHM = podspec.scratch("shm", "/dev/shm", memory=True)  # noqa: S108 - tensors between processes


def labels(server: Json, revision: str) -> dict[str, str]:
    return names.MANAGED_BY | selector(server, revision)


def selector(server: Json, revision: str) -> dict[str, str]:
    return {names.LABEL_MODELSERVER: name(server), names.LABEL_REVISION: revision}


def revision_of(pod: Json) -> str:
    """A revision is its pod: another artifact, image or option is another revision; another count is not."""
    return hash8(pod)


def deployment_name(server: Json, revision: str) -> str:
    return f"{name(server)}-{revision}"


def deployment(server: Json, spec: ModelServerSpec, artifact: Artifact, pod: Json) -> Json:
    """The Deployment of the revision that `pod` is, with all its replicas."""
    revision = revision_of(pod)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": deployment_name(server, revision),
            "namespace": namespace(server),
            "labels": labels(server, revision),
            "annotations": {ANNOTATION: artifact.text()},
            "ownerReferences": [owner_reference(server)],
        },
        "spec": {
            "replicas": spec.replicas,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": spec.rollout.progress_deadline_seconds,
            "selector": {"matchLabels": selector(server, revision)},
            "template": {"metadata": {"labels": labels(server, revision)}, "spec": pod},
        },
    }


def scaled(there: Json, replicas: int) -> Json:
    """A Deployment that is there, as server-side apply takes it, with another count."""
    metadata = there["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "ownerReferences")}
    annotations = {ANNOTATION: metadata["annotations"][ANNOTATION]}
    spec = {key: there["spec"][key] for key in ("revisionHistoryLimit", "progressDeadlineSeconds", "selector")}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**kept, "annotations": annotations},
        "spec": {**spec, "replicas": replicas, "template": _template(there)},
    }


def woken(child: Json, now: datetime) -> Json:
    """The same Deployment with a change that its ReplicaSet is given too, so that both are looked at."""
    metadata = child["metadata"]
    return child | {"metadata": metadata | {"annotations": metadata["annotations"] | {WOKEN_AT: timestamp(now)}}}


def _template(there: Json) -> Json:
    template = there["spec"]["template"]
    return {"metadata": {"labels": template["metadata"]["labels"]}, "spec": template["spec"]}


def service(server: Json, revision: str, switched: datetime | str) -> Json:
    """Points to one revision; `switched` is when it began to."""
    since = switched if isinstance(switched, str) else timestamp(switched)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name(server),
            "namespace": namespace(server),
            "labels": names.MANAGED_BY | {names.LABEL_MODELSERVER: name(server)},
            "annotations": {SWITCHED_AT: since},
            "ownerReferences": [owner_reference(server)],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": selector(server, revision),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def pod_spec(server: Json, spec: ModelServerSpec, artifact: Artifact, settings: Settings) -> Json:
    """Fetch and verify, then the engine behind the proxy."""
    key = _api_key(spec)
    credentials = podspec.credentials(artifact.secret_ref)
    mounted = [RUN, MODELS, TMP, SHM, *key, *credentials]
    fetch = _container(FETCH, settings, [MODELS, TMP, *credentials]) | {
        "command": [
            "tuneyard-server",
            "fetch",
            *_options(uri=artifact.uri, digest=artifact.digest, to=names.MODEL_DIR),
        ],
        "resources": FETCH_RESOURCES,
    }
    engine = _engine(server, spec, settings)
    proxy = _container(PROXY, settings, [RUN, TMP, *key]) | {
        "command": ["tuneyard-server", "proxy"],
        "ports": [{"name": "http", "containerPort": names.PROXY_PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "resources": PROXY_RESOURCES,
    }
    return {
        **podspec.NO_TOKEN,
        **podspec.image_settings(settings),
        **podspec.placement(spec.resources, spec.priority_class_name),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": podspec.POD_SECURITY,
        "initContainers": [fetch],
        "containers": [engine, proxy],
        "volumes": [volume for volume, _ in mounted],
    }


def _options(**values: str) -> list[str]:
    return [part for key, value in values.items() for part in (f"--{key}", value)]


def _engine(server: Json, spec: ModelServerSpec, settings: Settings) -> Json:
    chosen = ENGINES[spec.engine](spec)
    container = _container(ENGINE, settings, [RUN, MODELS, TMP, SHM], chosen.environment | _threads(spec))
    command = ["tuneyard-server", "engine", "--engine", spec.engine]
    command += ["--model", names.MODEL_DIR, "--served-name", name(server), *chosen.arguments]
    return container | {"command": command, "resources": podspec.container_resources(spec.resources)}


def _threads(spec: ModelServerSpec) -> dict[str, str]:
    count = podspec.threads(spec.resources)
    return {names.ENV_THREADS: str(count)} if count else {}


def _container(
    called: str, settings: Settings, mounted: list[tuple[Json, Json]], environment: dict[str, str] | None = None
) -> Json:
    variables = {"HOME": "/tmp"} | (environment or {})  # noqa: S108
    return {
        "name": called,
        "image": images.image(settings, images.SERVER),
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "securityContext": podspec.CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount for _, mount in mounted],
    }


def _api_key(spec: ModelServerSpec) -> list[tuple[Json, Json]]:
    """The key's file. Not optional: without it the pod waits, and is never open by mistake."""
    if spec.auth is None:
        return []
    reference = spec.auth.api_key_secret_ref
    secret = {"secretName": reference.name, "items": [{"key": reference.key, "path": "key"}], "defaultMode": 0o440}
    return [({"name": "auth", "secret": secret}, {"name": "auth", "mountPath": names.API_KEY_DIR, "readOnly": True})]
