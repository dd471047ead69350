"""Specs for each validation rule that the API server and pydantic share: what breaks it, and what just does not."""

from typing import Any, Final, NamedTuple

Json = dict[str, Any]
SHA: Final = f"sha256:{'0' * 64}"
JOB: Final[Json] = {
    "model": {"uri": "s3://models/m"},
    "dataset": {"train": [{"uri": "s3://data/d.jsonl"}]},
    "output": {"uri": "s3://artifacts/a"},
}
SERVER: Final[Json] = {"model": {"uri": "s3://artifacts/a", "digest": SHA}}
SPECS: Final = {"FineTuneJob": JOB, "ModelServer": SERVER}


class Verdict(NamedTuple):
    """`message`: the broken rule's; empty: the spec is accepted."""

    kind: str
    part: Json  # of the spec, in place of the minimal one's
    message: str = ""
    name: str = "x"

    def document(self) -> Json:
        return {"kind": self.kind, "metadata": {"name": self.name}, "spec": SPECS[self.kind] | self.part}


def _validation(**source: Any) -> Json:
    return {"dataset": JOB["dataset"] | {"validation": source}}


def _gates(*gates: Json) -> Json:
    return {"evaluation": {"gates": list(gates)}}


def _rollout(**rollout: Any) -> Json:
    return {"rollout": rollout}


def _cors(*origins: str) -> Json:
    return {"cors": {"allowedOrigins": list(origins)}}


def _vllm(**options: Any) -> Json:
    return {"vllm": options}


NO_PARSER: Final = "the model calls tools by itself only where toolCallParser says"
NEEDS_DRAFT: Final = "method draftModel needs model (uri and digest), and ngram takes none"
THE_PROXYS: Final = "through its socket, and clients reach port 80 of the Service: leave it out"
DRAFT: Final[Json] = {"uri": "s3://models/small", "digest": SHA}


def _engine(engine: str, **parts: Any) -> Json:
    return {"engine": engine, **parts}


def _follows(form: str) -> Json:
    return {"fineTuneJobRef": {"name": "x", "format": form}}


OTHER_ENGINE: Final = "{0} has the options of the engine {0}"
NOT_AN_ORIGIN: Final = "not an origin: write '*' for all"
NOT_S3: Final = "not a URI of an S3 bucket: write s3://bucket/path"
NOT_A_DIGEST: Final = "not a digest: write sha256:"
ONE_SOURCE: Final = "validation takes exactly one of uri and fraction"
HELD_OUT_ROWS: Final = "format, columns and ignore say how the rows of validation.uri are read: write a uri too"
ROWS_OR_AUTO: Final = "write a number of rows from 1, or auto"
ONE_LENGTH: Final = "training takes epochs or maxSteps, not both"
NOT_REPLAY: Final = "neither builtin://general nor a URI of an S3 bucket"
TRAIN: Final = [{"uri": "s3://data/d.jsonl"}]
TRAINED: Final = "streamWeights leaves on the disk what is not trained: set method to lora or qlora"
ONLY_PEFT: Final = "of the backends only peft has it: leave it out, or set backend: peft"
NOT_UNSLOTH: Final = "of the backends only peft and axolotl have it: leave it out, or set backend: peft"
NO_REFERENCE: Final = "dpo compares the model with what it is without its adapter: set method to lora or qlora"
ONE_BOUND: Final = "a gate takes exactly one of maxRatio"
ONE_MODEL: Final = "model takes exactly one of fineTuneJobRef and uri"
WITH_DIGEST: Final = "uri needs digest (sha256:…, in the FineTuneJob's status.artifacts), and digest needs uri"
ALL_GO: Final = "Recreate takes all replicas down: leave minAvailable out"
LONG_NAME: Final = "metadata.name may have at most 44 characters"
HOST_NAME: Final = "with several nodes metadata.name is part of host names"
NODES: Final = {"resources": {"nodes": 2}}

NEEDS_ROWS: Final = "is required: write where the training rows are"
NO_TRAINING: Final[Json] = {"training": {"method": "none"}}
CALIBRATED: Final[Json] = {"export": {"calibration": {"uri": "s3://data/c"}}}
TWO_SOURCES: Final = "the rows of dataset.train are the calibration rows: leave uri out"
CALIBRATION_ROWS: Final = "format, columns and ignore say how the rows of calibration.uri are read: write a uri too"
ALONE: Final = "auto and auto-gguf choose among several formats by themselves: write one of them alone"

VERDICTS: Final = [
    Verdict("FineTuneJob", {}),
    Verdict("FineTuneJob", {"dataset": {}}, NEEDS_ROWS),
    Verdict("FineTuneJob", {"dataset": {"validation": {"uri": "s3://data/v"}}, "training": {}}, NEEDS_ROWS),
    Verdict("FineTuneJob", {"dataset": {}, **CALIBRATED}, NEEDS_ROWS),
    Verdict("FineTuneJob", {"dataset": {}, **NO_TRAINING}),
    Verdict("FineTuneJob", NO_TRAINING),
    Verdict("FineTuneJob", {"dataset": {}, **NO_TRAINING, **CALIBRATED}),
    Verdict("FineTuneJob", {**NO_TRAINING, **CALIBRATED}, TWO_SOURCES),
    Verdict("FineTuneJob", {"export": {"calibration": {"format": "alpaca"}}}, CALIBRATION_ROWS),
    Verdict("FineTuneJob", {"export": {"formats": ["auto"]}}),
    Verdict("FineTuneJob", {"export": {"formats": ["bf16", "auto-gguf"]}}, ALONE),
    Verdict("FineTuneJob", {}, name="x" * 44),
    Verdict("FineTuneJob", {}, LONG_NAME, name="x" * 45),
    Verdict("FineTuneJob", NODES, name="a-7b"),
    Verdict("FineTuneJob", NODES, HOST_NAME, name="7b"),
    Verdict("FineTuneJob", NODES, HOST_NAME, name="support.v2"),
    Verdict("FineTuneJob", {"resources": {"nodes": 1}}, name="support.v2"),
    Verdict("FineTuneJob", {"resources": {}}, name="7b"),
    Verdict("FineTuneJob", {"model": {"uri": "s3://abc"}}),
    Verdict("FineTuneJob", {"model": {"uri": "s3://abc/"}}),
    Verdict("FineTuneJob", {"model": {"uri": "s3://ab"}}, NOT_S3),
    Verdict("FineTuneJob", {"model": {"uri": "s3://Models/m"}}, NOT_S3),
    Verdict("FineTuneJob", {"model": {"uri": "models/m"}}, NOT_S3),
    Verdict("FineTuneJob", {"model": {"uri": "s3://models/m\n"}}, NOT_S3),
    Verdict("FineTuneJob", {"output": {"uri": "http://artifacts/a"}}, NOT_S3),
    Verdict("FineTuneJob", {"dataset": {"train": [{"uri": "/data"}]}}, NOT_S3),
    Verdict("FineTuneJob", _validation(uri="s3://data/v")),
    Verdict("FineTuneJob", _validation(uri="s3://data/v", format="alpaca", columns={"output": "a"}, ignore=["b"])),
    Verdict("FineTuneJob", _validation(fraction=0.1)),
    Verdict("FineTuneJob", _validation(uri="data/v"), NOT_S3),
    Verdict("FineTuneJob", _validation(), ONE_SOURCE),
    Verdict("FineTuneJob", _validation(fraction=0.1, format="alpaca"), HELD_OUT_ROWS),
    Verdict("FineTuneJob", _validation(fraction=0.1, columns={"prompt": "q"}), HELD_OUT_ROWS),
    Verdict("FineTuneJob", _validation(fraction=0.1, ignore=["context"]), HELD_OUT_ROWS),
    Verdict("FineTuneJob", _validation(uri="s3://data/v", fraction=0.1), ONE_SOURCE),
    Verdict("FineTuneJob", {"training": {"epochs": 1}}),
    Verdict("FineTuneJob", {"training": {"dpo": {}}}),
    Verdict("FineTuneJob", {"training": {"dpo": {"beta": 0.3}, "method": "qlora"}}),
    Verdict("FineTuneJob", {"training": {"dpo": {}, "method": "full"}}, NO_REFERENCE),
    *(
        Verdict("FineTuneJob", {"dataset": {"train": TRAIN, "replay": {"uri": uri}}}, message)
        for uri, message in (("builtin://general", ""), ("s3://data/chat.jsonl", ""), ("general", NOT_REPLAY))
    ),
    Verdict("FineTuneJob", {"training": {"streamWeights": True, "method": "qlora"}}),
    Verdict("FineTuneJob", {"training": {"streamWeights": True}}),
    Verdict("FineTuneJob", {"training": {"streamWeights": False, "method": "full"}}),
    Verdict("FineTuneJob", {"training": {"streamWeights": True, "method": "full"}}, TRAINED),
    *(
        Verdict("FineTuneJob", {"training": {"backend": backend, field: value}}, message)
        for field, value, message in (
            ("useLigerKernel", True, ONLY_PEFT),
            ("useLigerKernel", False, ""),
            ("streamWeights", True, ONLY_PEFT),
            ("streamWeights", False, ""),
            ("dpo", {}, ONLY_PEFT),
        )
        for backend in ("axolotl", "unsloth")
    ),
    *(
        Verdict("FineTuneJob", {"training": {"backend": backend, field: value}}, message)
        for field, value, message in (("packing", True, NOT_UNSLOTH), ("attention", "sdpa", NOT_UNSLOTH))
        for backend, message in (("axolotl", ""), ("unsloth", message))
    ),
    Verdict("FineTuneJob", {"training": {"backend": "unsloth", "packing": False, "attention": "auto"}}),
    Verdict("FineTuneJob", {"training": {"backend": "peft", "packing": True, "useLigerKernel": True}}),
    Verdict("FineTuneJob", {"training": {"packing": True, "useLigerKernel": True, "attention": "eager"}}),
    Verdict("FineTuneJob", {"training": {"backend": "axolotl", "overrides": {"weight_decay": 0.1}}}),
    Verdict("FineTuneJob", {"training": {"maxSteps": 5}}),
    Verdict("FineTuneJob", {"training": {"microBatchSize": 4}}),
    Verdict("FineTuneJob", {"training": {"microBatchSize": "auto"}}),
    Verdict("FineTuneJob", {"training": {"microBatchSize": "most"}}, ROWS_OR_AUTO),
    Verdict("FineTuneJob", {"training": {"microBatchSize": "4"}}, ROWS_OR_AUTO),
    Verdict("FineTuneJob", {"training": {"microBatchSize": 0}}, ROWS_OR_AUTO),
    Verdict("FineTuneJob", {"training": {"epochs": 1, "maxSteps": 5}}, ONE_LENGTH),
    Verdict("FineTuneJob", _gates()),
    Verdict("FineTuneJob", _gates({"against": "base", "maxRatio": 1.5})),
    Verdict("FineTuneJob", _gates({"against": "base"}), ONE_BOUND),
    Verdict("ModelServer", {}),
    Verdict("ModelServer", {}, LONG_NAME, name="x" * 45),
    Verdict("ModelServer", {"model": {"fineTuneJobRef": {"name": "x"}}}),
    Verdict("ModelServer", {"model": {}}, ONE_MODEL),
    Verdict("ModelServer", {"model": {"uri": "s3://abc/b", "digest": SHA, "fineTuneJobRef": {"name": "x"}}}, ONE_MODEL),
    Verdict("ModelServer", {"model": {"uri": "s3://abc/b"}}, WITH_DIGEST),
    Verdict("ModelServer", {"model": {"fineTuneJobRef": {"name": "x"}, "digest": SHA}}, WITH_DIGEST),
    Verdict("ModelServer", {"model": {"uri": "b", "digest": SHA}}, NOT_S3),
    Verdict("ModelServer", {"model": {"uri": "s3://abc/b", "digest": SHA[:-1]}}, NOT_A_DIGEST),
    Verdict("ModelServer", {"model": {"uri": "s3://abc/b", "digest": SHA.replace("0", "A")}}, NOT_A_DIGEST),
    Verdict("ModelServer", _rollout(minAvailable=1)),
    Verdict("ModelServer", _rollout(strategy="Auto", minAvailable=1)),
    Verdict("ModelServer", _rollout(strategy="Recreate", minAvailable=0)),
    Verdict("ModelServer", _rollout(strategy="Recreate", minAvailable=1), ALL_GO),
    Verdict("ModelServer", _vllm(extraArgs={"max-num-seqs": "4", "uds-like": "x"})),
    Verdict("ModelServer", _vllm(extraArgs={"uds": "/x"}), THE_PROXYS),
    Verdict("ModelServer", _vllm(extraArgs={"port": "1"}), THE_PROXYS),
    Verdict("ModelServer", _vllm(extraArgs={"served-model-name": "x"}), "the model has the ModelServer's name"),
    Verdict("ModelServer", _vllm(extraArgs={"model": "x"}), "write spec.model"),
    Verdict("ModelServer", _vllm(extraArgs={"api-key": "x"}), "the proxy checks the keys: write spec.auth"),
    Verdict("ModelServer", _vllm(extraArgs={"allow-credentials": ""}), "the proxy answers browsers: write spec.cors"),
    Verdict("ModelServer", _vllm(enableAutoToolChoice=True), NO_PARSER),
    Verdict("ModelServer", _vllm(enableAutoToolChoice=True, toolCallParser="hermes")),
    Verdict("ModelServer", _vllm(enableAutoToolChoice=False)),
    Verdict("ModelServer", _vllm(speculative={"method": "ngram"})),
    Verdict("ModelServer", _vllm(speculative={"method": "ngram", "model": DRAFT}), NEEDS_DRAFT),
    Verdict("ModelServer", _vllm(speculative={"method": "draftModel"}), NEEDS_DRAFT),
    Verdict("ModelServer", _vllm(speculative={"method": "draftModel", "model": DRAFT})),
    Verdict("ModelServer", _vllm(speculative={"method": "draftModel", "model": DRAFT | {"uri": "x"}}), NOT_S3),
    Verdict("ModelServer", _vllm(speculative={"method": "draftModel", "model": DRAFT | {"digest": "x"}}), NOT_A_DIGEST),
    Verdict("ModelServer", _engine("vllm", vllm={})),
    Verdict("ModelServer", _engine("llamacpp", llamacpp={"maxModelLen": 512})),
    Verdict("ModelServer", _engine("auto", vllm={"maxModelLen": 512}, llamacpp={"maxModelLen": 512})),
    Verdict("ModelServer", {"vllm": {}, "llamacpp": {}}),
    Verdict("ModelServer", _engine("llamacpp", vllm={"maxModelLen": 512}), OTHER_ENGINE.format("vllm")),
    Verdict("ModelServer", _engine("llamacpp", vllm={}), OTHER_ENGINE.format("vllm")),
    Verdict("ModelServer", _engine("vllm", llamacpp={}), OTHER_ENGINE.format("llamacpp")),
    Verdict("ModelServer", _engine("llamacpp", model=_follows("gguf-q5_k_m"))),
    Verdict("ModelServer", _engine("llamacpp", model=_follows("recommended"))),
    Verdict(
        "ModelServer",
        _engine("llamacpp", model=_follows("int8")),
        "the engine llamacpp cannot load bf16, fp16, int8, fp8, gptq, awq",
    ),
    Verdict("ModelServer", _engine("vllm", model=_follows("gguf-q8_0")), "the engine vllm cannot load gguf-q4_k_m"),
    Verdict("ModelServer", _engine("auto", model=_follows("gguf-q8_0"))),
    Verdict("ModelServer", _cors("*")),
    Verdict("ModelServer", _cors("https://app.example.com", "http://localhost:3000")),
    Verdict("ModelServer", _cors("app.example.com"), NOT_AN_ORIGIN),
    Verdict("ModelServer", _cors("https://app.example.com/"), NOT_AN_ORIGIN),
    Verdict("ModelServer", _cors("https://*.example.com"), NOT_AN_ORIGIN),
]
