"""What admission refuses: the same words are in the condition Failed where the webhook is off."""

from typing import Any, Final

from planted import FINE, Planted, Seen
from support.verdicts import JOB, SERVER, SHA
from tuneyard_api.kinds.finetunejob import FINE_TUNE_JOB, unchanged_while_running
from tuneyard_api.kinds.modelserver import MODEL_SERVER
from tuneyard_api.validation import problems

Json = dict[str, Any]
DRAFT: Final[Json] = {"uri": "s3://models/small", "digest": SHA}


def _seen(kind: str, part: Json, name: str) -> Seen:
    known, spec = (FINE_TUNE_JOB, JOB) if kind == "FineTuneJob" else (MODEL_SERVER, SERVER)
    found = problems(known, {"kind": kind, "metadata": {"name": name}, "spec": spec | part})
    return Seen("", "; ".join(map(str, found))) if found else FINE


def _job(cause: str, part: Json, names: tuple[str, ...], remedy: str, right: Json, name: str = "bot") -> Planted:
    return Planted(
        *("FineTuneJob", cause, lambda: _seen("FineTuneJob", part, name), names, remedy),
        lambda: _seen("FineTuneJob", right, "bot"),
    )


def _server(cause: str, part: Json, names: tuple[str, ...], remedy: str, right: Json) -> Planted:
    return Planted(
        *("ModelServer", cause, lambda: _seen("ModelServer", part, "bot"), names, remedy),
        lambda: _seen("ModelServer", right, "bot"),
    )


REFUSED: Final = (
    _job(
        "a field is misspelled",
        {"training": {"learningRte": 1e-4}},
        ("spec.training.learningRte", "Did you mean learningRate?"),
        "Correct the field's name; all fields are in [api.md](api.md).",
        {"training": {"learningRate": 1e-4}},
    ),
    _job(
        "the model is one of the Hugging Face Hub",
        {"model": {"uri": "hf://Qwen/Qwen3-0.6B"}},
        ("spec.model.uri", "write s3://bucket/path", "tuneyard push"),
        "Download it with `hf download`, upload it with `tuneyard push DIR s3://...`, and write that URI. A token is "
        "only needed for the download.",
        {"model": {"uri": "s3://models/qwen3"}},
    ),
    _job(
        "the data is on a PersistentVolumeClaim",
        {"dataset": {"train": [{"uri": "pvc://data/rows.jsonl"}]}},
        ("spec.dataset.train[0].uri", "write s3://bucket/path", "tuneyard push"),
        "No volumes are read: upload the data with `tuneyard push FILE s3://...`.",
        {"dataset": {"train": [{"uri": "s3://data/rows.jsonl"}]}},
    ),
    _job(
        "there are no training rows",
        {"dataset": {}},
        ("spec.dataset.train", "write where the training rows are"),
        "Write `dataset.train`, a list of URIs.",
        {"dataset": JOB["dataset"]},
    ),
    _job(
        "a quantity is written in GB",
        {"resources": {"limits": {"memory": "16GB"}}},
        ("spec.resources.limits.memory", "16Gi"),
        "Write `16Gi` or `16G`.",
        {"resources": {"limits": {"memory": "16Gi"}}},
    ),
    _job(
        "a request is above its limit",
        {"resources": {"requests": {"cpu": 4}, "limits": {"cpu": 2}}},
        ("spec.resources.requests.cpu", "write at most 2, or raise the limit"),
        "Lower the request, or raise the limit.",
        {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": 2}}},
    ),
    _job(
        "`gpuResourceName` is no name of an extended resource",
        {"resources": {"gpus": 1, "gpuResourceName": "gpu"}},
        ("spec.resources.gpuResourceName", "such as nvidia.com/gpu"),
        "Write the name that `kubectl describe nodes` lists under Allocatable.",
        {"resources": {"gpus": 1, "gpuResourceName": "amd.com/gpu"}},
    ),
    _job(
        "the batch cannot be shared among the GPUs",
        {"resources": {"gpus": 8}, "training": {"effectiveBatchSize": 12}},
        ("spec.training.effectiveBatchSize", "write a multiple of resources.nodes x resources.gpus"),
        "Write a multiple of the number of GPUs.",
        {"resources": {"gpus": 8}, "training": {"effectiveBatchSize": 16}},
    ),
    _job(
        "the method is misspelled",
        {"training": {"method": "qlorra"}},
        ("spec.training.method", "Did you mean qlora?"),
        "Write one of the methods that the message lists.",
        {"training": {"method": "qlora"}},
    ),
    _job(
        "the Secret's name is none",
        {"output": {"uri": "s3://artifacts/a", "secretRef": {"name": "My_Secret"}}},
        ("spec.output.secretRef.name", "write small letters, digits, hyphens and dots"),
        "Write the name that `kubectl get secrets` shows.",
        {"output": {"uri": "s3://artifacts/a", "secretRef": {"name": "my-secret"}}},
    ),
    _job(
        "the name is too long for the names of its pods",
        {},
        ("metadata.name", "at most 44 characters"),
        "Choose a shorter name.",
        {},
        name="x" * 45,
    ),
    Planted(
        "FineTuneJob",
        "the spec was changed while a stage runs, under `onSpecChange: Refuse`",
        lambda: Seen("", unchanged_while_running()["message"]),  # what the API server answers: test_crds.py asks it
        ("onSpecChange: Replace", "suspend: true"),
        "Set `onSpecChange: Replace` with the change, or suspend the job first ([gitops.md](gitops.md)).",
    ),
    _server(
        "an artifact without its digest",
        {"model": {"uri": "s3://artifacts/a"}},
        ("spec.model", "uri needs digest (sha256:", "status.artifacts"),
        "Copy `digest` from `status.artifacts` of the FineTuneJob, or refer to the job by `model.fineTuneJobRef`.",
        {"model": {"uri": "s3://artifacts/a", "digest": SHA}},
    ),
    _server(
        "a port for the engine, which the proxy owns",
        {"vllm": {"extraArgs": {"port": "9000"}}},
        ("spec.vllm.extraArgs", "leave it out"),
        "Leave it out: the server is at port 80 of its Service.",
        {"vllm": {}},
    ),
    _server(
        "an option with its dashes",
        {"vllm": {"extraArgs": {"--seed": "1"}}},
        ("spec.vllm.extraArgs", "not --max-num-seqs"),
        'Write `seed: "1"`.',
        {"vllm": {"extraArgs": {"seed": "1"}}},
    ),
    _server(
        "a GGUF format for vLLM",
        {"engine": "vllm", "model": {"fineTuneJobRef": {"name": "tune", "format": "gguf-q8_0"}}},
        ("the engine vllm cannot load gguf", "engine"),
        "Set `engine: auto` (or `llamacpp`), or another format.",
        {"engine": "auto", "model": {"fineTuneJobRef": {"name": "tune", "format": "gguf-q8_0"}}},
    ),
    _server(
        "a draft model is missing for `method: draftModel`",
        {"vllm": {"speculative": {"method": "draftModel"}}},
        ("spec.vllm.speculative", "needs model (uri and digest)"),
        "Write `vllm.speculative.model` with `uri` and `digest`, or `method: ngram`.",
        {"vllm": {"speculative": {"method": "draftModel", "model": DRAFT}}},
    ),
    _server(
        "more tensor parallelism than GPUs",
        {"resources": {"gpus": 2}, "vllm": {"tensorParallelSize": 4}},
        ("spec.vllm.tensorParallelSize", "write at most resources.gpus"),
        "Raise `resources.gpus`, or lower it.",
        {"resources": {"gpus": 4}, "vllm": {"tensorParallelSize": 4}},
    ),
)
