"""What a stage asks of a worker process, and what the worker answers.

A worker is a program of its own, often in another Python environment: it reads its request from a JSON file and sends
events over its standard output, the last of which is its result. See tuneyard_trainer.runtime.worker.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.speed import Speed
from tuneyard_api.kinds.finetunejob_status import CurvePoint, Fidelity, LossSpike
from tuneyard_api.kinds.training import Training

# What a training worker may do to need less memory, beside the settings of the spec.
CHUNKED_LOSS: Final = "chunkedLoss"
PAGED_OPTIMIZER: Final = "pagedOptimizer"
OFFLOADED_OPTIMIZER: Final = "offloadedOptimizer"
STREAMED_WEIGHTS: Final = "streamedWeights"


class WorkerRequest(Contract):
    """The part of a request that every worker gets."""

    threads: int | None = Field(default=None, description="CPU threads; None: as many as the library chooses.")


class TokenizerRequest(WorkerRequest):
    """Load a model's tokenizer as the server does, and write it as one file."""

    model: Path = Field(description="Directory with the configuration and the tokenizer of the model.")
    model_uri: str = Field(description="Where the model comes from; messages name it.")
    output: Path = Field(description="Directory for the tokenizer.")


class TrainRequest(WorkerRequest):
    """Train an adapter, or with method full a model."""

    model: Path = Field(description="Directory of the base model.")
    model_uri: str = Field(description="Where the base model comes from; the adapter's configuration names it.")
    rows: Path = Field(description="Directory of the tokenized training rows.")
    validation_rows: Path | None = Field(default=None, description="Directory of the tokenized held-out rows.")
    validation_count: int = Field(default=0, description="The first so many held-out rows are validated.")
    validation_steps: int = Field(default=1, description="Steps between two validations.")
    training: Training
    steps: int = Field(description="Optimizer steps of the whole run.")
    gpus: int = Field(description="GPUs of this pod.")
    devices: int = Field(description="Processes of all pods.")
    resume: Path | None = Field(default=None, description="Checkpoint directory to resume from.")
    checkpoints: Path = Field(description="Directory for new checkpoints.")
    output: Path = Field(description="Directory for the adapter or the model.")
    native: Path = Field(description="Directory for files with which the backend's library trains the same by itself.")
    events: Path = Field(description="Directory for event files of TensorBoard.")
    stop_file: Path = Field(description="When this file appears, write a checkpoint and stop.")
    memory_savers: tuple[str, ...] = Field(
        default=(), description="What the worker does to need less memory; of the names that its backend lists."
    )


class MergeRequest(WorkerRequest):
    """Merge an adapter into its base model."""

    model: Path = Field(description="Directory of the base model; its shards are removed as they are merged.")
    adapter: Path | None = Field(default=None, description="None: the base model is only written in bfloat16.")
    output: Path


class QuantizeRequest(WorkerRequest):
    """Write the quantized formats of a merged model, one after the other."""

    model: Path = Field(description="Directory of the merged model.")
    formats: list[str]
    rows: Path = Field(description="JSON file with calibration rows: lists of token ids.")
    max_length: int = Field(description="Tokens per calibration row.")
    output: Path = Field(description="A directory, which gets one for each format.")


class GgufRequest(WorkerRequest):
    """Write a GGUF file of a merged model."""

    model: Path = Field(description="Directory of the merged model.")
    name: str = Field(description="Of the model, in the file's metadata.")
    quantization: str = Field(description="llama.cpp's name of the type, such as Q5_K_M.")
    rows: Path | None = Field(default=None, description="JSON file with calibration rows, lists of token ids.")
    importance: bool = Field(default=True, description="Whether an importance matrix is made of the rows.")
    shared: Path = Field(description="Directory for the file in full precision and the importance matrix.")
    output: Path = Field(description="The file to write.")


class ScoreRequest(WorkerRequest):
    """Measure models on held-out rows."""

    models: dict[str, Path] = Field(description="Directory of each model, by subject.")
    rows: Path = Field(description="JSON file: [[input_ids, labels], ...].")
    general: Path | None = Field(default=None, description="The same of general rows, on which forgetting shows.")
    end_tokens: list[int] = Field(default=[], description="Tokens that end an answer.")
    reference: str = Field(default="", description="The subject with whose logits those of the others are compared.")
    compared: list[int] = Field(default=[], description="The numbers of the rows whose logits are compared.")
    logits: Path = Field(default=Path(), description="Directory for the logits of the reference, which are kept.")
    prompts: list[list[int]] = Field(default=[], description="The tokens of questions that each model answers.")


class TokenizerOutcome(Contract):
    """The tokenizer is written."""


class TrainOutcome(Contract):
    """How far a training worker came."""

    steps: int
    loss: float | None = Field(default=None, description="Mean over the last steps, in nats per token.")
    finished: bool = Field(description="Whether adapter or model are written; else a checkpoint is.")
    stopped_early: bool = False
    kept_step: int = Field(description="The step whose weights are written.")
    curve: list[CurvePoint] = []
    spikes: list[LossSpike] = []
    diverged: str | None = Field(
        default=None, description="Why the run could not go on; the weights of the kept step are written, if any are."
    )


class MergeOutcome(Contract):
    merged: int = Field(description="Weights that the adapter changed.")


class QuantizeOutcome(Contract):
    fidelity: dict[str, Fidelity] = Field(description="Of each format to the merged model.")


class GgufOutcome(Contract):
    """The file is written."""

    tensors: int = Field(description="Matrices of the model.")
    fallbacks: int = Field(description="Of these, those whose rows do not divide by the type's block.")
    split_otherwise: int = Field(default=0, description="Calibration rows that llama.cpp splits into other tokens.")
    rows: int = Field(default=0, description="Calibration rows.")
    fidelity: Fidelity | None = Field(default=None, description="To the merged model.")


class Likelihood(Contract):
    """Of some rows."""

    nll: float = Field(description="Summed negative log-likelihood of the supervised tokens, in nats.")
    tokens: int = Field(description="Supervised tokens.")


class Score(Speed):
    """What is measured of one model, over all held-out rows unless it says otherwise; None: not measured."""

    nll: float = Field(description="Summed negative log-likelihood of the supervised tokens, in nats.")
    tokens: int = Field(description="Supervised tokens.")
    general: Likelihood | None = Field(default=None, description="Of the general rows; None: there are none.")
    kl: float | None = Field(
        default=None, description="Mean KL divergence from the reference over the compared rows, in nats per token."
    )
    changed_top1: float | None = Field(
        default=None, alias="changedTop1", description="Share of tokens there whose most likely token is another one."
    )
    end_probability: float | None = Field(
        default=None, description="Mean probability of the token that ends the answer, at the answer's end."
    )
    memory_bytes: int | None = Field(default=None, description="The weights in memory after loading.")
    engine: str = Field(default="", description="What measured the memory and the speed.")
    answers: list[list[int]] = Field(
        default=[], description="The tokens of its answer to each prompt, without the token that ends it."
    )


class ScoreOutcome(Contract):
    scores: dict[str, Score] = Field(description="By subject.")


class TrainingProgress(Contract):
    event: Literal["progress"] = "progress"
    step: int
    steps: int
    loss: float = Field(description="Mean over the last steps, in nats per token.")
    validation_loss: float | None = None
    tokens_per_second: float


class MetricsLogged(Contract):
    """The metrics of a step, by the names that they have in TensorBoard and in a tracking server."""

    event: Literal["metrics"] = "metrics"
    step: int
    metrics: dict[str, float] = Field(description="Finite numbers, such as train/loss.")


class CheckpointWritten(Contract):
    event: Literal["checkpoint"] = "checkpoint"
    step: int
    path: Path


class ItemsDone(Contract):
    """Progress of a worker that goes through a known number of items: shards, layers, models."""

    event: Literal["items"] = "items"
    done: int
    total: int
    item: str = Field(default="", description="What it works on now.")


class WorkerFailed(Contract):
    """The worker raised an error that has a name."""

    event: Literal["failed"] = "failed"
    pid: int = Field(description="The process that has failed.")
    kind: str = Field(description="The class of the error: StageError, BadInput, DoesNotFit or TryAgain.")
    reason: str
    message: str
    advice: str = ""


class WorkerResult(Contract):
    """The worker's last event."""

    event: Literal["result"] = "result"
    result: dict[str, object] = Field(description="The JSON form of the outcome that goes with the request.")


WorkerEvent = Annotated[
    TrainingProgress | MetricsLogged | CheckpointWritten | ItemsDone | WorkerFailed | WorkerResult,
    Field(discriminator="event"),
]
WORKER_EVENT: TypeAdapter[WorkerEvent] = TypeAdapter(WorkerEvent)
