"""The objects of a ModelServer: a Deployment for each revision, and one Service."""

import json
from datetime import datetime
from typing import Any, Final

from tuneyard_api import names
from tuneyard_api.base import ContainerResources
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.kinds.modelserver import ModelServerSpec, Release
from tuneyard_api.pod import PodOptions
from tuneyard_api.quantity import cpu_threads
from tuneyard_api.registry import ENGINES, module_name
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import Json, hash8, name, namespace, owner_reference
from tuneyard_operator.modelserver.artifact import ANNOTATION, annotation
from tuneyard_operator.pods import images, podspec
from tuneyard_operator.settings import Settings

NO_OPTIONS: Final = PodOptions()
FETCH: Final = "fetch"
ENGINE: Final = "engine"
PROXY: Final = "proxy"
SWITCHED_AT: Final = "tuneyard.dev/switched-at"
NUDGED_AT: Final = "tuneyard.dev/nudged-at"
# What the namespace's quotas allowed when the Deployment was last asked to try again.
NUDGED_QUOTA: Final = "tuneyard.dev/nudged-quota"
# What the user asked for when the revision was made; the pod also depends on the operator's version and settings.
ASKED: Final = "tuneyard.dev/asked"
# The proxy lets streams end, then the engine stops.
GRACE_SECONDS: Final = 120

# The supervisor ends an engine that takes too long for the size of its model, and says why; this is for when it fails.
STARTUP_FAILURES: Final = 7200

# No limit of ephemeral-storage: the limits of a pod's containers together bound its volumes, where the model is. vLLM
# checks its options in fetch: importing it takes 800 MB.
FETCH_DEFAULTS: Final = ContainerResources(
    requests={"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "64Mi"}, limits={"memory": "2Gi"}
)
PROXY_DEFAULTS: Final = ContainerResources(
    requests={"cpu": "10m", "memory": "64Mi", "ephemeral-storage": "64Mi"}, limits={"memory": "128Mi"}
)
RUN = podspec.scratch("run", names.RUN_DIR)
MODELS = podspec.scratch("models", "/models")
TMP = podspec.scratch("tmp", "/tmp")  # noqa: S108 - the pod's own
SHM = podspec.scratch("shm", "/dev/shm", memory=True)  # noqa: S108 - tensors between processes


def labels(server: Json, revision: str) -> dict[str, str]:
    return podspec.app_labels("modelserver", name(server), "server") | selector(server, revision)


def selector(server: Json, revision: str) -> dict[str, str]:
    return {names.LABEL_MODELSERVER: name(server), names.LABEL_REVISION: revision}


def revision_of(pod: Json, options: PodOptions = NO_OPTIONS) -> str:
    """A revision is identified by its pods: another artifact, image, option, label or annotation makes another one."""
    metadata = podspec.metadata(options, {})
    return hash8([pod, metadata]) if any(metadata.values()) else hash8(pod)


def deployment_name(server: Json, revision: str) -> str:
    return f"{name(server)}-{revision}"


def deployment(server: Json, spec: ModelServerSpec, release: Release, pod: Json, replicas: int) -> Json:
    """The Deployment of the revision whose pod spec is `pod`."""
    revision = revision_of(pod, spec.pod)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": deployment_name(server, revision),
            "namespace": namespace(server),
            "labels": labels(server, revision),
            "annotations": annotation(release) | {ASKED: asked(server, release)},
            "ownerReferences": [owner_reference(server)],
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": spec.rollout.progress_deadline_seconds,
            "selector": {"matchLabels": selector(server, revision)},
            "template": {"metadata": podspec.metadata(spec.pod, labels(server, revision)), "spec": pod},
        },
    }


def asked(server: Json, release: Release) -> str:
    """What the user asks for, without what does not change a pod: no upgrade of the operator changes it."""
    spec = {field: value for field, value in server["spec"].items() if field not in ("replicas", "rollout")}
    return hash8([spec, release.wire()])


def scaled(existing: Json, replicas: int) -> Json:
    """An existing Deployment with another number of replicas, reduced to the fields that server-side apply owns."""
    metadata, template = existing["metadata"], existing["spec"]["template"]
    annotations = metadata["annotations"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "ownerReferences")}
    spec = {key: existing["spec"][key] for key in ("revisionHistoryLimit", "progressDeadlineSeconds", "selector")}
    owned = {key: template["metadata"][key] for key in ("labels", "annotations") if key in template["metadata"]}
    pods = {"metadata": owned, "spec": template["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **kept,
            "annotations": {key: annotations[key] for key in (ANNOTATION, ASKED) if key in annotations},
        },
        "spec": {**spec, "replicas": replicas, "template": pods},
    }


def nudged(child: Json, now: datetime, quotas: str = "") -> Json:
    """The Deployment with a new annotation. Its ReplicaSet gets it too, so the controllers of both are triggered."""
    metadata = child["metadata"]
    why = {NUDGED_AT: timestamp(now)} | ({NUDGED_QUOTA: quotas} if quotas else {})
    return child | {"metadata": metadata | {"annotations": metadata["annotations"] | why}}


def budget(server: Json) -> Json:
    """A drain of nodes takes one replica at a time, whichever revision it is of; of one replica that one."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": f"{name(server)}-modelserver",
            "namespace": namespace(server),
            "labels": podspec.app_labels("modelserver", name(server)) | {names.LABEL_MODELSERVER: name(server)},
            "ownerReferences": [owner_reference(server)],
        },
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {names.LABEL_MODELSERVER: name(server)}},
        },
    }


def service(server: Json, revision: str, switched_at: datetime) -> Json:
    """The Service that selects one revision; `switched_at` is the time since when it does."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name(server),
            "namespace": namespace(server),
            "labels": podspec.app_labels("modelserver", name(server)) | {names.LABEL_MODELSERVER: name(server)},
            "annotations": {SWITCHED_AT: timestamp(switched_at)},
            "ownerReferences": [owner_reference(server)],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": selector(server, revision),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def pod_spec(server: Json, spec: ModelServerSpec, release: Release, settings: Settings) -> Json:
    """A pod that fetches and verifies the artifact, and runs the engine behind the proxy."""
    spec = spec.model_copy(update={"engine": spec.engine_for(release.format)})
    key = _api_key(spec)
    credentials = podspec.credentials(release.secret_ref)
    return {
        **podspec.NO_TOKEN,
        **podspec.image_settings(settings),
        **podspec.identity(spec.pod),
        **podspec.placement(spec.resources, spec.priority_class_name, {names.LABEL_MODELSERVER: name(server)}),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": podspec.POD_SECURITY,
        "initContainers": [_fetch(server, spec, release, settings, [MODELS, TMP, *credentials])],
        "containers": [_engine(server, spec, settings), _proxy(server, spec, settings, [RUN, TMP, *key])],
        "volumes": [volume for volume, _ in [RUN, MODELS, TMP, SHM, *key, *credentials]],
    }


def _fetch(
    server: Json, spec: ModelServerSpec, release: Release, settings: Settings, mounted: list[tuple[Json, Json]]
) -> Json:
    command = ["tuneyard-server", "fetch", "--uri", release.uri, "--digest", release.digest, "--to", names.MODEL_DIR]
    if draft := getattr(_engine_options(spec), "draft", None):
        command += ["--draft-uri", draft.uri, "--draft-digest", draft.digest]
    command += ["--request", _request(server, spec)]
    image = _image(spec, settings)
    resources = podspec.container_resources(spec.containers.fetch, FETCH_DEFAULTS)
    return _container(FETCH, image, settings, mounted) | {"command": command, "resources": resources}


def _engine(server: Json, spec: ModelServerSpec, settings: Settings) -> Json:
    command = ["tuneyard-server", "engine", "--request", _request(server, spec)]
    image = _image(spec, settings)
    return _container(ENGINE, image, settings, [RUN, MODELS, TMP, SHM]) | {
        "command": [*command, "--probes-port", str(names.ENGINE_PORT)],
        "ports": [{"name": "probes", "containerPort": names.ENGINE_PORT}],
        "startupProbe": _probe("/startupz", "probes") | {"periodSeconds": 2, "failureThreshold": STARTUP_FAILURES},
        "livenessProbe": _probe("/livez", "probes") | {"periodSeconds": 10, "failureThreshold": 6},
        "resources": podspec.container_resources(spec.resources),
    }


def engine_request(server: Json, spec: ModelServerSpec) -> EngineRequest:
    """What the engine's container is asked to serve, with the options of spec.<engine>."""
    options = _engine_options(spec)
    return EngineRequest(
        engine=spec.engine,
        model=names.MODEL_DIR,
        served_name=name(server),
        gpus=spec.resources.gpus,
        threads=cpu_threads(spec.resources.limits, spec.resources.requests),
        options=options.wire() if options else {},
    )


def _engine_options(spec: ModelServerSpec) -> Any:
    """spec.<engine>; None where the engine has no options."""
    return getattr(spec, module_name(spec.engine), None)


def _request(server: Json, spec: ModelServerSpec) -> str:
    return json.dumps(engine_request(server, spec).wire(), sort_keys=True)


def _image(spec: ModelServerSpec, settings: Settings) -> str:
    """The engine's image, which also fetches the artifact and has the proxy."""
    return images.image(settings, ENGINES[spec.engine].image)


def _probe(path: str, port: str) -> Json:
    return {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5}


def _proxy(server: Json, spec: ModelServerSpec, settings: Settings, mounted: list[tuple[Json, Json]]) -> Json:
    image = _image(spec, settings)
    origins = [word for origin in spec.cors.allowed_origins for word in ("--allow-origin", origin)] if spec.cors else []
    return _container(PROXY, image, settings, mounted) | {
        "command": ["tuneyard-server", "proxy", "--engine", spec.engine, "--served-name", name(server), *origins],
        "ports": [
            {"name": "http", "containerPort": names.PROXY_PORT},
            {"name": "metrics", "containerPort": names.METRICS_PORT},
        ],
        "readinessProbe": _probe("/health", "metrics") | {"periodSeconds": 2, "failureThreshold": 3},
        "resources": podspec.container_resources(spec.containers.proxy, PROXY_DEFAULTS),
    }


def _container(container: str, image: str, settings: Settings, mounted: list[tuple[Json, Json]]) -> Json:
    return {
        "name": container,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108
        "securityContext": podspec.CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount for _, mount in mounted],
    }


def _api_key(spec: ModelServerSpec) -> list[tuple[Json, Json]]:
    """The API key as a file. Its Secret is not optional: without it the pod waits, and is never open by mistake."""
    if spec.auth is None:
        return []
    reference = spec.auth.api_key_secret_ref
    secret = {"secretName": reference.name, "items": [{"key": reference.key, "path": "key"}], "defaultMode": 0o440}
    return [({"name": "auth", "secret": secret}, {"name": "auth", "mountPath": names.API_KEY_DIR, "readOnly": True})]
