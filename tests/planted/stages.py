"""What keeps the stages of a FineTuneJob from running, or ends them."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from planted import Planted, Seen
from support.finetuning import FineTuning
from support.memorystore import MemoryStore
from support.podstatus import termination
from support.reports import evaluated, measurements
from tuneyard_api import names, reasons
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.names import EXIT_BAD_INPUT, EXIT_DOES_NOT_FIT, EXIT_TRY_AGAIN, EXIT_UNKNOWN, Stage
from tuneyard_api.stages import STAGES
from tuneyard_operator.machinery.plan import Rejection
from tuneyard_trainer.backends import guards
from tuneyard_trainer.backends.peft.backend import BACKEND
from tuneyard_trainer.backends.rungs import Rungs
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import DoesNotFit, disk_full
from tuneyard_trainer.stages.evaluate import advice as gate_advice

DENIED: Final = 'Error creating: pods "bot-1" is forbidden: '
NODES: Final = "0/3 nodes are available: {}. preemption: 0/3 nodes are available: 3 Preemption is not helpful."


def described(cluster: FineTuning) -> Seen:
    """What the conditions and the column REASON say."""
    found = cluster.condition("Failed") or cluster.condition("Suspended") or cluster.condition("Succeeded")
    return Seen(cluster.status["reason"], found["message"])


def ended(stage: Stage, code: int, reason: str, message: str, advice: str) -> Seen:
    """What is shown when the stage's program has ended so."""
    cluster = FineTuning().at(stage).run(stage).exit(stage, code, termination(reason, message, advice))
    if code != EXIT_TRY_AGAIN:
        cluster.fail_job(stage)
    cluster.step()
    return described(cluster)


def _denied(message: str) -> Callable[[], Seen]:
    """The API server takes no pod of the stage."""

    def show() -> Seen:
        cluster = FineTuning().at("train")
        cluster.step()
        cluster.wait(10)
        cluster.warn(cluster.job_of("train"), "FailedCreate", DENIED + message)
        cluster.step()
        return described(cluster)

    return show


def _unscheduled(causes: str) -> Callable[[], Seen]:
    def show() -> Seen:
        cluster = FineTuning().at("train")
        cluster.kubelet.leave_unscheduled(cluster.create_pod("train"), NODES.format(causes))
        cluster.step()
        return described(cluster)

    return show


def _image() -> Seen:
    cluster = FineTuning().at("train")
    pull = 'Back-off pulling image "registry.example/trainer:1": ErrImagePull: 401 Unauthorized'
    cluster.kubelet.keep_waiting(cluster.create_pod("train"), "ImagePullBackOff", pull)
    cluster.step()
    return described(cluster)


def _no_image() -> Seen:
    cluster = FineTuning(training={"backend": "axolotl"}, resources={"gpus": 1}).prepared()
    cluster.step()
    return described(cluster)


def _queue() -> Seen:
    cluster = FineTuning(queueName="gpus").at("train")
    cluster.step()
    return described(cluster)


def _suspended() -> Seen:
    cluster = FineTuning().at("train").run("train")
    cluster.step()
    cluster.change(suspend=True).step()
    cluster.step()
    return described(cluster)


def _superseded() -> Seen:
    cluster = FineTuning(onSpecChange="Replace").at("train").run("train")
    cluster.step()
    cluster.change(training={"epochs": 9})
    cluster.reconcile()
    return described(cluster)


def _failed_pod(reason: str, message: str) -> Seen:
    cluster = FineTuning().at("train")
    cluster.kubelet.fail(cluster.create_pod("train"), reason, message)
    cluster.fail_job("train").step()
    return described(cluster)


def _node_lost() -> Seen:
    cluster = FineTuning().at("train").run("train")
    cluster.step()
    cluster.kubelet.exit(cluster.kubelet.disrupt(cluster.pods[-1], "PodGC: node no longer exists"), 137)
    cluster.step()
    return described(cluster)


def _killed() -> Seen:
    cluster = FineTuning(training={"oomRecovery": False}).at("train").run("train").exit("train", 137, "", "OOMKilled")
    cluster.fail_job("train").step()
    return described(cluster)


def _every_rung() -> Seen:
    """The error of the ladder's highest rung."""
    spec: dict[str, Any] = {
        "model": {"uri": "s3://models/m"},
        "dataset": {"train": [{"uri": "s3://data/d.jsonl"}]},
        "training": {"effectiveBatchSize": 2, "microBatchSize": 2},
        "output": {"uri": "s3://out"},
        "resources": {"gpus": 0},
    }
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps({"model_type": "llama"}))
        digests = dict.fromkeys(STAGES, "0" * 64)
        given = FineTuneJobSpec.model_validate(spec)
        context = StageContext("train", "bot", given, MemoryStore(), Path(directory), digests)
        rungs = Rungs.of(context, BACKEND, Path(directory), 64)
        try:
            while True:
                rungs.climb(DoesNotFit(reasons.OUT_OF_MEMORY, "Out of memory at step 3: CUDA out of memory"))
        except DoesNotFit as error:
            return ended("train", EXIT_DOES_NOT_FIT, error.reason, error.message, error.advice)


def _diverged() -> Seen:
    problem = guards.divergence(7, float("nan"), 1.0, [])
    return ended("train", EXIT_BAD_INPUT, reasons.TRAINING_DIVERGED, str(problem), guards.ADVICE)


def _disk() -> Seen:
    error = disk_full(OSError(28, "No space left on device", f"{names.WORK_DIR}/model/model.safetensors"))
    assert error is not None
    return ended("train", EXIT_UNKNOWN, error.reason, error.message, error.advice)


def _gate() -> Seen:
    cluster = FineTuning().at("evaluate").run("evaluate")
    gate = {"metric": "perplexity", "against": "base", "subject": "tuned", "value": 9.0, "limit": 7.0, "passed": False}
    text = "Nothing is published: perplexity of tuned is 9, the gate against base allows 7"
    given = FineTuneJobSpec.model_validate(cluster.job["spec"])
    said = termination("GateFailed", text, gate_advice(given), evaluated(measurements(base=8.0, tuned=9.0), [gate]))
    cluster.exit("evaluate", EXIT_BAD_INPUT, said).fail_job("evaluate").step()
    return described(cluster)


def _rejected() -> Seen:
    cluster = FineTuning()
    cluster.rejection = Rejection(
        "Job bot-prepare", 'spec.template.spec.nodeSelector: Invalid value: "a b": must be a valid label', final=True
    )
    cluster.step()
    return described(cluster)


def _job(cause: str, show: Callable[[], Seen], names: tuple[str, ...], remedy: str) -> Planted:
    return Planted("FineTuneJob", cause, show, names, remedy)


WAITS: Final = (
    _job(
        "a ResourceQuota is used up",
        _denied("exceeded quota: team, requested: limits.cpu=4, used: limits.cpu=8, limited: limits.cpu=8"),
        ("ResourceQuota team", "Raise"),
        "Raise the quota, or free what others use; the pod is tried again by itself.",
    ),
    _job(
        "a ResourceQuota wants limits",
        _denied("failed quota: team: must specify limits.cpu for: stage"),
        ("ResourceQuota team", "limits.cpu", "spec.resources"),
        "Set what the message names in `resources.limits`.",
    ),
    _job(
        "a LimitRange forbids the limits",
        _denied("maximum memory usage per Container is 4Gi, but limit is 16Gi"),
        ("spec.resources", "LimitRange", "4Gi"),
        "Lower `resources.limits`, or have the LimitRange changed.",
    ),
    _job(
        "a webhook of the cluster refuses the pods",
        _denied('admission webhook "pods.policy.example" denied the request: the label team is missing'),
        ("pods.policy.example", "the label team is missing"),
        "Do what it says, for example with `pod.labels`, or ask who runs it.",
    ),
    _job(
        "the PriorityClass does not exist",
        _denied("no PriorityClass with name urgent was found"),
        ("Create the PriorityClass with name urgent", "name another one in the spec"),
        "Create it, or correct `priorityClassName`.",
    ),
    _job(
        "the service account does not exist",
        _denied('error looking up service account team/trainer: serviceaccount "trainer" not found'),
        ('Create the serviceaccount "trainer"', "name another one in the spec"),
        "Create it, or correct `pod.serviceAccountName`.",
    ),
    _job(
        "no node has such a GPU, or none is free",
        _unscheduled("3 Insufficient nvidia.com/gpu"),
        ("nvidia.com/gpu", "kubectl describe nodes", "spec.resources.gpuResourceName"),
        "Free a GPU or add a node; where no node lists the resource, install the device plugin or correct "
        "`resources.gpuResourceName`.",
    ),
    _job(
        "the nodes with GPUs have a taint",
        _unscheduled("2 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {gpu: only}"),
        ("key gpu", "spec.resources.tolerations"),
        "Add `{key: gpu, operator: Exists}` to `resources.tolerations`.",
    ),
    _job(
        "no node has the label",
        _unscheduled("3 node(s) didn't match Pod's node affinity/selector"),
        ("spec.resources.nodeSelector", "kubectl get nodes --show-labels"),
        "Correct `resources.nodeSelector`, or label a node.",
    ),
    _job(
        "no node has so much memory",
        _unscheduled("3 Insufficient memory"),
        ("Lower memory in spec.resources", "add a node"),
        "Lower `resources.requests.memory`, or add a node ([sizing.md](sizing.md)).",
    ),
    _job(
        "the image cannot be pulled",
        _image,
        ("registry.example/trainer:1", "values images", "imagePullSecrets"),
        "Correct `images` in the chart's values, or give it `imagePullSecrets`, and create that Secret here.",
    ),
    _job(
        "the operator has no image for the backend",
        _no_image,
        ("images.axolotl", "chart's values"),
        "Set the image in the chart's values and upgrade the release.",
    ),
    _job(
        "the queue does not exist, or has no quota left",
        _queue,
        ("kubectl describe localqueue gpus", "spec.queueName", "create it"),
        "Create the LocalQueue, correct `queueName`, or wait for quota.",
    ),
    _job(
        "the job is suspended",
        _suspended,
        ("Set spec.suspend to false",),
        "`kubectl tuneyard resume NAME`.",
    ),
    _job(
        "the spec was changed under `onSpecChange: Replace`, and pods of the earlier run have not ended",
        _superseded,
        ("waits for the pods of an earlier run to end",),
        "Wait: they write a checkpoint first.",
    ),
    _job(
        "the node of training is gone",
        _node_lost,
        ("PodGC: node no longer exists", "The next pod starts"),
        "Nothing: another pod goes on from the newest checkpoint.",
    ),
)
FAILS: Final = (
    _job(
        "the API server takes no Job with this spec",
        _rejected,
        ("nodeSelector", "Change the spec and apply it again"),
        "Correct the field that the message names.",
    ),
    _job(
        "the training needs more memory than the GPU has, at every step of saving some",
        _every_rung,
        ("This was tried in vain", "training.maxLength", "training.method: qlora", "GPUs with more memory"),
        "Do one of what the message names ([sizing.md](sizing.md)).",
    ),
    _job(
        "the pod was killed at its memory limit",
        _killed,
        ("spec.resources.limits.memory", "training.microBatchSize"),
        "Raise `resources.limits.memory`.",
    ),
    _job(
        "the training diverged",
        _diverged,
        ("step 7", "training.learningRate"),
        "Lower `training.learningRate`.",
    ),
    _job(
        "the disk of the node is full",
        _disk,
        ("The disk of the pod is full", "resources.limits.ephemeral-storage", "docs/sizing.md"),
        "Use nodes with more disk.",
    ),
    _job(
        "the pod used more disk than its limit",
        lambda: _failed_pod("Evicted", "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi."),
        ("spec.resources.limits.ephemeral-storage", "1Gi"),
        "Raise `resources.limits.ephemeral-storage`.",
    ),
    _job(
        "a gate failed",
        _gate,
        ("perplexity of tuned", "evaluation.gates", "evaluation.onGateFailure: Warn"),
        "Train longer or on more data, or change the gate.",
    ),
)
