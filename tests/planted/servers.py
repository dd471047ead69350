"""What keeps a ModelServer from serving."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from planted import FINE, Planted, Seen
from support.builders import FOREIGN_SERVICE, NEW, NOW, OLD
from support.memorystore import MemoryStore
from support.podstatus import termination
from support.rollouts import message, reason, served_with, work
from support.serving import Serving
from tuneyard_api import names
from tuneyard_api.names import EXIT_BAD_INPUT, EXIT_UNKNOWN
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import condition, is_condition_true
from tuneyard_operator.modelserver.children import ENGINE, FETCH, PROXY
from tuneyard_server import fetch as fetching
from tuneyard_server.engines.base import Cause
from tuneyard_server.engines.vllm.causes import explain
from tuneyard_server.fetch import Artifact, fetch
from tuneyard_server.proxy.keys import InvalidKeyError, read_keys
from tuneyard_store.artifact import publish_directory

MODEL: Final = "s3://artifacts/x"
DRAFT: Final = "s3://models/small"
OPTIONS: Final = "vllm serve: error: unrecognized arguments: --max-sequences=4. Did you mean --max-num-seqs?"
TOO_LONG: Final = "ValueError: max_model_len (900000) is greater than the model's 8192"
NO_CACHE: Final = "ValueError: To serve at least one request, 9 GiB KV cache is needed, which is larger than 4 GiB"


def described(cluster: Serving) -> Seen:
    """The most telling condition, and the column REASON; FINE where it serves what the spec asks for."""
    if is_condition_true(cluster.server, "Available") and not reason(cluster):
        return FINE
    degraded = condition(cluster.server, "Degraded").get("message", "")
    return Seen(reason(cluster), degraded or message(cluster, "Progressing"))


def _follows(*, job: dict[str, Any] | None, format: str = "recommended") -> Seen:  # noqa: A002 - the field's name
    cluster = Serving(model={"fineTuneJobRef": {"name": "tune", "format": format}})
    if job is not None:
        cluster.publish(**job)
    work(cluster, 30)
    return described(cluster)


def _fails_in(container: str, code: int, text: str) -> Seen:
    """The container has ended so as often as counts."""
    cluster = Serving()
    cluster.step(0)
    cluster.fail_container(OLD, container, code, text, 4)
    cluster.sync_deployments()
    cluster.step(60)
    return described(cluster)


def _fetched(
    change: Callable[[MemoryStore], object], digest: str = "", engine: str = "vllm", form: str = "bf16"
) -> Seen:
    """What the real fetch says of an artifact that was changed after it was published."""
    return _fetch(change, digest=digest, engine=engine, form=form, draft=False)


def _fetch(change: Callable[[MemoryStore], object], *, digest: str, engine: str, form: str, draft: bool) -> Seen:
    store = MemoryStore()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        model = _publish(store, folder, MODEL, form, {"a": 0, "b": 1})
        other = _publish(store, folder, DRAFT, form, {"a": 0, "b": 1, "c": 2}) if draft else None
        change(store)
        log = folder / "termination"
        with (
            patch.object(fetching, "open_store", lambda credentials: store),
            patch.object(fetching, "from_environment", lambda: None),
            patch.dict(os.environ, {names.ENV_TERMINATION_LOG: str(log)}),
        ):
            code = fetch(model._replace(digest=digest or model.digest), other, folder / "none", engine)
        return _fails_in(FETCH, code, log.read_text()) if code else FINE


def _publish(store: MemoryStore, folder: Path, uri: str, form: str, vocabulary: dict[str, int]) -> Artifact:
    source = folder / f"source-{uri.rpartition('/')[2]}"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"vocab_size": len(vocabulary)}))
    (source / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return Artifact(uri, publish_directory(store, source, uri, form).digest, folder / uri.rpartition("/")[2])


def _engine(line: str) -> Seen:
    """The supervisor's words about an engine that logged this line and ended."""
    found: Cause = explain([line])
    said = termination(found.reason, f"The engine exited with 1: {found.message}", found.advice)
    return _fails_in(ENGINE, EXIT_UNKNOWN, said)


def _option() -> Seen:
    found = explain([OPTIONS])
    return _fails_in(FETCH, EXIT_BAD_INPUT, termination(found.reason, found.message, found.advice))


def _api_key_missing() -> Seen:
    cluster = Serving(auth={"apiKeySecretRef": {"name": "team-key", "key": "api-key"}})
    cluster.step(0)
    pod = cluster.pod_of(OLD)
    pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(NOW)}]
    cluster.step(5)
    text = 'MountVolume.SetUp failed for volume "auth" : secret "team-key" not found'
    cluster.warn(pod, "FailedMount", text)
    cluster.step(90)
    return described(cluster)


def _api_key_unusable() -> Seen:
    path = Path(names.API_KEY_FILE)
    with tempfile.TemporaryDirectory() as directory:
        key = Path(directory) / "key"
        key.write_text("")
        try:
            read_keys(key)
        except InvalidKeyError as error:
            said = termination("InvalidAPIKey", str(error).replace(str(key), str(path)))
    cluster = Serving(auth={"apiKeySecretRef": {"name": "team-key", "key": "api-key"}})
    cluster.step(0)
    cluster.fail_container(OLD, PROXY, EXIT_BAD_INPUT, said, 4)
    cluster.sync_deployments()
    cluster.step(60)
    return described(cluster)


def _name_taken() -> Seen:
    cluster = Serving()
    cluster.create(FOREIGN_SERVICE)
    work(cluster, 30)
    return described(cluster)


def _late() -> Seen:
    cluster = Serving(rollout={"progressDeadlineSeconds": 60})
    with patch.object(cluster.kubelet, "start", lambda pod: pod):  # the engine never answers
        work(cluster, 200)
    return described(cluster)


def _no_room() -> Seen:
    cluster = served_with(1, rollout={"strategy": "Surge"})
    cluster.wants(NEW)
    work(cluster, 60)
    return described(cluster)


def _rolled_back() -> Seen:
    cluster = served_with(2)
    cluster.wants(NEW)
    cluster.kubelet.engine_works = False
    work(cluster, 30)
    pod = cluster.pod_of(NEW)
    said = termination("OutOfMemory", "The engine exited with 1: CUDA out of memory", "Lower vllm.maxModelLen.")
    cluster.kubelet.crash_loop(pod, ENGINE, EXIT_UNKNOWN, said, 4)
    cluster.sync_deployments()
    cluster.reconcile()
    return described(cluster)


def _killed() -> Seen:
    cluster = Serving()
    cluster.step(0)
    pod = cluster.pod_of(OLD)
    cluster.kubelet.crash_loop(pod, ENGINE, 137, "", 4)
    for status in pod["status"]["containerStatuses"]:
        status["lastState"]["terminated"]["reason"] = "OOMKilled"
    cluster.sync_deployments()
    cluster.step(60)
    return described(cluster)


def _server(cause: str, show: Callable[[], Seen], names: tuple[str, ...], remedy: str) -> Planted:
    return Planted("ModelServer", cause, show, names, remedy)


TOO_FEW: Final = {
    "type": "Failed",
    "status": "True",
    "reason": "TooFewRows",
    "message": "4 rows are left of 9. Then: kubectl tuneyard retry tune -n team",
}
FAILED: Final = {"conditions": [TOO_FEW], "phase": "Failed"}
GATE: Final = {
    "metric": "perplexity",
    "against": "base",
    "subject": "tuned",
    "value": 9.0,
    "limit": 7.0,
    "passed": False,
}
GATED: Final = {"evaluation": {"gates": [GATE], "gatesFailed": 1}}

SERVERS: Final = (
    _server(
        "the FineTuneJob does not exist",
        lambda: _follows(job=None),
        ("FineTuneJob tune does not exist in this namespace", "model.fineTuneJobRef.name"),
        "Create it, or correct the name.",
    ),
    _server(
        "the FineTuneJob failed",
        lambda: _follows(job=FAILED),
        ("FineTuneJob tune failed: TooFewRows: 4 rows are left", "kubectl tuneyard retry tune -n team"),
        "Look up the reason of the FineTuneJob in this page, and do what its message says.",
    ),
    _server(
        "the release did not pass its gates",
        lambda: _follows(job=GATED),
        ("FineTuneJob tune", "perplexity of tuned is 9, the gate allows 7", "status.artifacts"),
        "Tune it again, change the gates, or serve it by `model.uri` and `model.digest` all the same.",
    ),
    _server(
        "the FineTuneJob did not export the format",
        lambda: _follows(job={}, format="gptq"),
        ("gptq", "export.formats", "model.fineTuneJobRef.format (bf16, int8)"),
        "Name one of the formats that it has, or add it to its `export.formats`.",
    ),
    _server(
        "the artifact was deleted",
        lambda: _fetched(lambda store: store.objects.clear()),
        (MODEL, "Correct spec.model.uri", "spec.rerun"),
        "Correct the URI. If it was deleted, delete what is left of the directory `export` of its run, and set `rerun` "
        "of the FineTuneJob to another value.",
    ),
    _server(
        "the digest is that of another artifact",
        lambda: _fetched(lambda store: None, digest=NEW),
        (NEW, "status.artifacts"),
        "Write the digest that `status.artifacts` of the FineTuneJob has.",
    ),
    _server(
        "a file of the artifact was changed",
        lambda: _fetched(lambda store: store.objects.update({f"{MODEL}/config.json": b"{}"})),
        (f"{MODEL}/config.json", "To publish it again", "spec.rerun"),
        "Find out who changed it. Delete the directory `export` of its run, and set `rerun` of the FineTuneJob to "
        "another value.",
    ),
    _server(
        "the artifact is GGUF, and the engine vLLM",
        lambda: _fetched(lambda store: None, form="gguf-q8_0"),
        ("gguf-q8_0", "Set spec.engine: llamacpp"),
        "Set `engine: llamacpp`.",
    ),
    _server(
        "the draft model has another vocabulary",
        lambda: _fetch(lambda store: None, digest="", engine="vllm", form="bf16", draft=True),
        (DRAFT, "vocab_size", "Take a draft model of the same family"),
        "Take a smaller model of the same family.",
    ),
    _server(
        "vLLM has no such option",
        _option,
        ("--max-sequences", "Correct spec.vllm", "https://docs.vllm.ai"),
        "Correct `vllm.extraArgs`.",
    ),
    _server(
        "`maxModelLen` is longer than the model's context",
        lambda: _engine(TOO_LONG),
        ("max_model_len", "Lower vllm.maxModelLen"),
        "Lower `vllm.maxModelLen`.",
    ),
    _server(
        "the key-value cache does not fit",
        lambda: _engine(NO_CACHE),
        ("Lower vllm.maxModelLen", "vllm.gpuMemoryUtilization"),
        "Do one of what the message names.",
    ),
    _server(
        "the engine was killed at its memory limit",
        _killed,
        ("spec.resources.limits.memory",),
        "Raise `resources.limits.memory` ([sizing.md](sizing.md)).",
    ),
    _server(
        "the Secret with the API key does not exist",
        _api_key_missing,
        ('"team-key"', "Create what is missing in this namespace"),
        "Create the Secret, with the key that `auth.apiKeySecretRef` names.",
    ),
    _server(
        "the Secret holds no usable API key",
        _api_key_unusable,
        ("Key api-key of Secret team-key", "Put one of 8 to 512 characters there"),
        "Put a key of 8 or more characters into the Secret.",
    ),
    _server(
        "another Service has the ModelServer's name",
        _name_taken,
        ("Service bot", "Delete it, or give the ModelServer another name"),
        "Do one of the two.",
    ),
    _server(
        "the engine needs longer than the deadline",
        _late,
        ("rollout.progressDeadlineSeconds", "the pod's log"),
        "Raise `rollout.progressDeadlineSeconds`.",
    ),
    _server(
        "there is no room for the new revision beside the old one",
        _no_room,
        ("rollout.strategy: Auto", "Add room"),
        "Set `rollout.strategy: Auto`, or add room.",
    ),
    _server(
        "the new revision fails, and the old one serves",
        _rolled_back,
        ("Lower vllm.maxModelLen", "was rolled back", "kubectl tuneyard retry bot"),
        "Correct what the message names and apply it again.",
    ),
)
