"""Wrong specs, each with the field's path and the remedy that `kubectl apply` answers, and specs that get a warning."""

from typing import Any, Final, NamedTuple

from support.verdicts import JOB, SERVER, SHA

Json = dict[str, Any]


class WrongSpec(NamedTuple):
    """`answer`: what kubectl prints, beside the path, where the schema speaks first; empty: the remedy."""

    kind: str
    part: Json  # of the spec, in place of the minimal one's
    path: str
    remedy: str
    answer: str = ""
    name: str = "wrong"

    @property
    def spec(self) -> Json:
        return (JOB if self.kind == "FineTuneJob" else SERVER) | self.part

    def document(self) -> Json:
        return {"kind": self.kind, "metadata": {"name": self.name}, "spec": self.spec}


def _job(part: Json, path: str, remedy: str, answer: str = "", name: str = "wrong") -> WrongSpec:
    return WrongSpec("FineTuneJob", part, path, remedy, answer, name)


def _server(part: Json, path: str, remedy: str, answer: str = "", name: str = "wrong") -> WrongSpec:
    return WrongSpec("ModelServer", part, path, remedy, answer, name)


def _resources(**resources: Any) -> Json:
    return {"resources": resources}


QUANTITY: Final = "write a number such as 2, 500m or 16Gi"
NAME: Final = "write small letters, digits, hyphens and dots"

# The API server's schema comes first: what it refuses never gets to the webhook.
SCHEMA: Final = [
    _job({"training": {"lora": {"rank": 0}}}, "spec.training.lora.rank", "from 1 to 512", "greater than or equal to 1"),
    _job({"training": {"learningRate": 2}}, "spec.training.learningRate", "of at most 1", "less than or equal to 1"),
    _job({"training": {"method": "qlorra"}}, "spec.training.method", "Did you mean qlora?", '"lora", "qlora"'),
    _job(
        {"training": {"epochs": "3"}}, "spec.training.epochs", "write a number above 0", 'must be of type number: "str'
    ),
    _job({"dataset": {"train": []}}, "spec.dataset.train", "a list of 1 to 32 items", "at least 1 items"),
    _job({"output": {}}, "spec.output.uri", "is required: write text", "Required value"),
    _job({"export": {"formats": ["bf16", "bf16"]}}, "spec.export.formats", "write each once", "Duplicate value"),
    _job({"training": {"learningRte": 1}}, "spec.training.learningRte", "Did you mean learningRate?", "unknown field"),
    _job({"model": {"uri": "models/m"}}, "spec.model.uri", "write s3://bucket/path"),
    _job({"training": {"microBatchSize": 0}}, "spec.training.microBatchSize", "write a number of rows from 1, or auto"),
    _job(
        {"training": {"microBatchSize": "most"}},
        "spec.training.microBatchSize",
        "write a number of rows from 1, or auto",
    ),
    _job({"training": {"epochs": 1, "maxSteps": 5}}, "spec.training", "epochs or maxSteps, not both"),
    _job({"dataset": {}}, "spec.dataset.train", "is required: write where the training rows are"),
    _job({"export": {"formats": ["auto", "bf16"]}}, "spec.export.formats", "write one of them alone"),
    _job(
        {"export": {"calibration": {"uri": "s3://data/c.jsonl"}}},
        *("spec.export.calibration.uri", "are the calibration rows: leave uri out"),
    ),
    _job(
        {"export": {"calibration": {"format": "alpaca"}}},
        *("spec.export.calibration", "how the rows of calibration.uri are read: write a uri too"),
    ),
    _server({"model": {"uri": "s3://abc/b"}}, "spec.model", "uri needs digest (sha256:"),
    _server({"replicas": -1}, "spec.replicas", "from 0 to 1000", "greater than or equal to 0"),
    _server({"cors": {"allowedOrigins": ["app.example.com"]}}, "spec.cors.allowedOrigins[0]", "scheme, host and port"),
]
NOT_TRAINED: Final[Json] = {"training": {"method": "none"}}
# What a schema cannot say, or says in the words of regular expressions.
WEBHOOK: Final = [
    _job(_resources(limits={"memory": "16GB"}), "spec.resources.limits.memory", QUANTITY),
    _job(_resources(requests={"cpu": "two"}), "spec.resources.requests.cpu", QUANTITY),
    _job(_resources(requests={"cpu": "-1"}), "spec.resources.requests.cpu", "write 0 or more"),
    _job(
        _resources(requests={"cpu": 4}, limits={"cpu": 2}),
        *("spec.resources.requests.cpu", "write at most 2, or raise the limit"),
    ),
    _job(
        _resources(limits={"ram": "1Gi"}),
        "spec.resources.limits.ram",
        "write cpu, memory, ephemeral-storage or domain/",
    ),
    _job({"model": {"uri": "s3://models/../m"}}, "spec.model.uri", "write the path that is meant"),
    _job(_resources(limits={"cpu": "1e999999999"}), "spec.resources.limits.cpu", QUANTITY),
    _job(_resources(gpuResourceName="gpu"), "spec.resources.gpuResourceName", "such as nvidia.com/gpu"),
    _job(_resources(runtimeClassName="NVIDIA"), "spec.resources.runtimeClassName", NAME),
    _job(_resources(tolerations=[{"value": "x"}]), "spec.resources.tolerations[0].key", "write operator: Exists"),
    _job(
        _resources(tolerations=[{"operator": "Exists", "value": "x"}]),
        *("spec.resources.tolerations[0].value", "leave it out, or write operator: Equal"),
    ),
    _job(
        _resources(tolerations=[{"key": "x", "operator": "Exists", "tolerationSeconds": 3}]),
        *("spec.resources.tolerations[0].tolerationSeconds", "write effect: NoExecute"),
    ),
    _job(
        _resources(gpus=8) | {"training": {"effectiveBatchSize": 12}},
        *("spec.training.effectiveBatchSize", "write a multiple of resources.nodes x resources.gpus"),
    ),
    _job(
        NOT_TRAINED | {"dataset": {}, "export": {"formats": ["auto"]}},
        *("spec.export.formats", "write export.calibration.uri, or other formats"),
    ),
    _job(
        NOT_TRAINED | {"dataset": {}, "evaluation": {"gates": [{"against": "base", "maxRatio": 1.1}]}},
        *("spec.evaluation.gates", "write dataset.validation.uri or export.calibration.uri"),
    ),
    _job(
        NOT_TRAINED | {"evaluation": {"gates": [{"against": "tuned", "maxRatio": 1.1}]}},
        *("spec.evaluation.gates", "nothing is tuned: write against: base"),
    ),
    _job({"pod": {"labels": {"tuneyard.dev/stage": "x"}}}, "spec.pod.labels", "write another key"),
    _job({"pod": {"labels": {"a b": "x"}}}, "spec.pod.labels", "write up to 63 letters"),
    _server({"pod": {"labels": {"team": "a b"}}}, "spec.pod.labels.team", "write up to 63 letters"),
    _server({"pod": {"annotations": {"app.kubernetes.io/name": "x"}}}, "spec.pod.annotations", "write another key"),
    _job({"pod": {"serviceAccountName": "Trainer"}}, "spec.pod.serviceAccountName", NAME),
    _job({"output": JOB["output"] | {"secretRef": {"name": "My_Secret"}}}, "spec.output.secretRef.name", NAME),
    _job({"queueName": "GPUs"}, "spec.queueName", NAME),
    _job({"priorityClassName": "very high"}, "spec.priorityClassName", NAME),
    _server({}, "metadata.name", "with a letter in front", name="7b"),
    _server({}, "metadata.name", "write small letters, digits and hyphens", name="chat.v2"),
    _server(
        _resources(gpus=2) | {"vllm": {"tensorParallelSize": 4}},
        *("spec.vllm.tensorParallelSize", "write at most resources.gpus"),
    ),
    _server({"vllm": {"extraArgs": {"--seed": "1"}}}, "spec.vllm.extraArgs", "write max-num-seqs, not --max-num-seqs"),
    _server(
        {"llamacpp": {"extraArgs": {"-ub": "1"}}},
        *("spec.llamacpp.extraArgs", "write ubatch-size, not --ubatch-size"),
    ),
    _server({"llamacpp": {"extraArgs": {"ctx-size": "1"}}}, "spec.llamacpp.extraArgs", "as maxModelLen for ctx-size"),
    _server({"llamacpp": {"extraArgs": {"ubatch": "1"}}}, "spec.llamacpp.extraArgs", "not an option of llama-server"),
    _server(
        {"auth": {"apiKeySecretRef": {"name": "key", "key": "api key"}}},
        *("spec.auth.apiKeySecretRef.key", "write letters, digits, '-', '_' and '.'"),
    ),
    _server({"model": {"fineTuneJobRef": {"name": "a/b"}}}, "spec.model.fineTuneJobRef.name", NAME),
]
WRONG_SPECS: Final = [*SCHEMA, *WEBHOOK]


class Doubtful(NamedTuple):
    """A spec that is accepted with a warning."""

    kind: str
    part: Json
    warning: str

    @property
    def spec(self) -> Json:
        return (JOB if self.kind == "FineTuneJob" else SERVER) | self.part


_GPU: Final = {"resources": {"gpus": 1}}
_KEY: Final = {"auth": {"apiKeySecretRef": {"name": "absent"}}}
DOUBTFUL: Final = [
    Doubtful(
        "FineTuneJob",
        _GPU | {"output": JOB["output"] | {"secretRef": {"name": "absent"}}},
        "spec.output.secretRef.name: there is no Secret absent yet",
    ),
    Doubtful(
        "FineTuneJob",
        _GPU | {"training": {"tracking": {"mlflow": {"secretRef": {"name": "absent"}}}}},
        "spec.training.tracking.mlflow.secretRef.name: there is no Secret absent yet",
    ),
    Doubtful("FineTuneJob", _GPU | {"queueName": "absent"}, "spec.queueName: there is no LocalQueue absent yet"),
    Doubtful(
        "FineTuneJob",
        _GPU | {"priorityClassName": "absent"},
        "spec.priorityClassName: there is no PriorityClass absent yet",
    ),
    Doubtful(
        "ModelServer",
        _KEY | {"model": {"fineTuneJobRef": {"name": "absent"}}},
        "spec.model.fineTuneJobRef.name: there is no FineTuneJob absent yet",
    ),
    Doubtful("FineTuneJob", {"resources": {"gpus": 0}}, "spec.resources.gpus: 0 trains on the CPU"),
    Doubtful("ModelServer", {"model": {"uri": "s3://abc/b", "digest": SHA}}, "spec.auth: without an API key"),
]
