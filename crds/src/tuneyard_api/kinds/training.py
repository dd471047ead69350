"""How a FineTuneJob trains: spec.training."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from tuneyard_api.base import Model, Passed
from tuneyard_api.kinds.tracking import Tracking
from tuneyard_api.registry import BACKENDS, OneOf, described
from tuneyard_api.rules import Rule, validations, violated

FULL: Final = "full"
"""The method that trains every parameter, and so makes a model rather than an adapter."""
PEFT: Final = "peft"
"""The default backend."""
NO_TRAINING: Final = "none"
"""The method of a job that only exports, evaluates and publishes."""
LEARNING_RATES: Final = {"lora": 2e-4, "qlora": 2e-4, FULL: 2e-5}
"""By method. LoRA's is that of the QLoRA paper for models of up to 13B (arXiv:2305.14314, table 9). That of a full
tuning is a tenth of it (Schulman et al. 2025, LoRA Without Regret), and Alpaca's for LLaMA 7B."""
DPO_LEARNING_RATE: Final = 1e-5
"""Ten times that of the paper (1e-6, arXiv:2305.18290, appendix B), which tunes every parameter."""


def _learning_rate(data: dict[str, Any]) -> float:
    if data.get("dpo") is not None:
        return DPO_LEARNING_RATE
    return LEARNING_RATES.get(data.get("method", ""), LEARNING_RATES["lora"])


AUTO: Final = "auto"
ROWS_OR_AUTO: Final = Rule(
    "write a number of rows from 1, or auto",
    lambda size: size == AUTO or (type(size) is int and size >= 1),
    cel="type(self) == int ? self >= 1 : self == 'auto'",
)


def _check_rows(size: Any) -> Any:
    """One error where the two types of the field would give two."""
    if not ROWS_OR_AUTO.accepts(size):
        raise violated(ROWS_OR_AUTO.message)
    return size


MicroBatchSize = Annotated[
    int | Literal["auto"],
    BeforeValidator(_check_rows),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True, **validations([ROWS_OR_AUTO])}),
]


class Lora(Model):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(default=16, ge=1, le=512, description="Default: 16.")
    alpha: int = Field(default=32, ge=1, le=2048, description="Default: 32, twice the default rank (arXiv:2405.09673).")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Default: 0.")
    target_modules: list[str] = Field(
        default=["all-linear"],
        min_length=1,
        max_length=64,
        description="Names of modules, or all-linear for every linear layer but the head. Default: [all-linear].",
    )
    variant: Literal["lora", "rslora", "dora"] = Field(
        default="lora",
        description="rslora scales by alpha / sqrt(rank), so that high ranks learn as fast (arXiv:2312.03732). dora "
        "trains the norm of each column of a weight beside its direction (arXiv:2402.09353); slower. Default: lora.",
    )


class Dpo(Model):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290): learns from pairs of answers."""

    beta: float = Field(
        default=0.1,
        gt=0,
        le=10,
        description="How closely the model keeps to what it was. Default: 0.1, that of the paper.",
    )


class Checkpoints(Model):
    every_minutes: float = Field(default=10, gt=0, description="Minutes between checkpoints. Default: 10.")
    keep: int = Field(default=2, ge=1, le=20, description="Newest checkpoints that are kept. Default: 2.")


class EarlyStopping(Model):
    """Ends a run when validation no longer gets better."""

    patience: int = Field(default=3, ge=1, le=1000, description="Validations without a lower loss. Default: 3.")


class Training(Model):
    backend: Annotated[str, OneOf(BACKENDS)] = Field(
        default=PEFT, description=f"{described(BACKENDS)} Default: {PEFT}."
    )
    method: Literal["lora", "qlora", "full", "none"] = Field(
        default="lora",
        description="lora trains an adapter. qlora trains one on base weights that are held in NF4 (arXiv:2305.14314). "
        "full trains every parameter, in 16 bytes of memory each. none: the model is not tuned; it is exported, "
        "evaluated and published as it is. Default: lora.",
    )
    lora: Lora = Lora()
    dpo: Dpo | None = Field(
        default=None,
        description="Trains pairs of answers, rows of the format preference, with method lora or qlora: the model "
        "learns to prefer the chosen answer more than it did. Default: answers are trained as they are.",
    )
    epochs: float | None = Field(default=None, gt=0, le=1000, description="Default: 3, unless maxSteps is given.")
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(
        default_factory=_learning_rate,
        gt=0,
        le=1,
        description="Of the first step after the warmup. Default: 2e-4 for lora and qlora (arXiv:2305.14314), a tenth "
        "of it for full; 1e-5 with dpo.",
    )
    scheduler: Literal["linear", "cosine", "constant"] = Field(default="cosine", description="Default: cosine.")
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="Default: 0.03.")
    effective_batch_size: int = Field(
        default=16, ge=1, le=65536, description="Rows per optimizer step, over all GPUs and nodes. Default: 16."
    )
    micro_batch_size: MicroBatchSize | None = Field(
        default=None,
        description="Rows per forward pass and device. auto: as many as fit by the estimate of prepare, or the default "
        "where nothing can be estimated (status.fit). Default: the largest of 1, 2, 4, 8 that divides "
        "effectiveBatchSize.",
    )
    max_length: int = Field(default=1024, ge=8, le=1048576, description="Tokens per row. Default: 1024.")
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16",
        description="A CPU without instructions for bfloat16 computes in fp32 with either. Default: bf16.",
    )
    gradient_checkpointing: bool = Field(default=False, description="Default: false.")
    stream_weights: bool = Field(
        default=False,
        description="The base model stays on the disk, in 4 bits with qlora: each module reads its weights as it "
        "computes, with gradientCheckpointing. For models larger than the memory; slower. On one GPU, or none, with "
        "lora or rslora. Default: false.",
    )
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = Field(
        default="auto",
        description="auto: of a packed micro batch on a GPU PyTorch's own FlashAttention 2 for rows of any length, "
        "which is in every image; where rows are padded, and with axolotl, sdpa. Where the image has the package "
        "flash-attn, peft takes that. unsloth chooses by itself. Default: auto.",
    )
    use_liger_kernel: bool | None = Field(
        default=None,
        description="On a GPU the backend peft computes norms, rotary positions and gated activations with Liger's "
        "kernels, where the image has liger-kernel and a C compiler, and they give what the model's own code gives. "
        "Default: true with peft; the other backends do not have it.",
    )
    packing: bool | None = Field(
        default=None,
        description="Rows of a micro batch are trained end to end, without padding; each attends only to itself, so "
        "the result is that of padded rows. Models that cannot do this are trained with padding. Default: true with "
        "peft and axolotl; unsloth pads.",
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between two validations, which measure the loss on held-out rows. Default: about 20 "
        "validations, fewer where they would cost more than a fifth of the training.",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="The step whose weights are exported: the one with the lowest validation loss, or the last. "
        "Default: best.",
    )
    early_stopping: EarlyStopping | None = Field(default=None, description="Default: every step is trained.")
    oom_recovery: bool = Field(
        default=True,
        description="Where the memory does not suffice the run goes on with settings that need less, at the same "
        "effectiveBatchSize: smaller micro batches, gradientCheckpointing, a loss in chunks, on GPUs an optimizer in "
        "8 bits or on the CPU, and streamWeights. Not with several nodes. Default: true.",
    )
    seed: int = Field(default=42, ge=0, le=4294967295, description="Default: 42.")
    checkpoints: Checkpoints = Checkpoints()
    tracking: Tracking | None = Field(
        default=None,
        description="Servers that get the metrics of the run while it runs. Event files for TensorBoard are written in "
        "any case. Default: none.",
    )
    overrides: Passed | None = Field(
        default=None,
        description="More settings of the backend, by its own names: for axolotl those of its config.yaml. What other "
        "fields set is refused here.",
    )

    @property
    def given_micro_batch_size(self) -> int | None:
        """None: it is not given as a number."""
        return None if self.micro_batch_size == AUTO else self.micro_batch_size

    @property
    def patience(self) -> int | None:
        """Validations without a lower loss after which the run ends; None: it does not end early."""
        return self.early_stopping.patience if self.early_stopping else None

    @property
    def packs(self) -> bool:
        """Whether rows are to be trained end to end."""
        return "packing" in BACKENDS[self.backend].has and self.packing is not False

    @property
    def tries_liger(self) -> bool:
        """Whether Liger's kernels are to be used where they can."""
        return "useLigerKernel" in BACKENDS[self.backend].has and self.use_liger_kernel is not False

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "training takes epochs or maxSteps, not both",
                lambda training: training.epochs is None or training.max_steps is None,
                cel="!(has(self.epochs) && has(self.maxSteps))",
            ),
            # Not in CEL: a default that is written out is as good as none.
            Rule(
                "method full trains every parameter and makes no adapter: leave training.lora out",
                lambda training: training.method != FULL or training.lora == Lora(),
                field="lora",
            ),
            Rule(
                "streamWeights leaves on the disk what is not trained: set method to lora or qlora",
                lambda training: not training.stream_weights or training.method in ("lora", "qlora"),
                cel="!has(self.streamWeights) || !self.streamWeights || !has(self.method) "
                "|| self.method in ['lora', 'qlora']",
                field="streamWeights",
            ),
            Rule(
                "dora reads the weights to begin with: set lora.variant to lora or rslora with streamWeights",
                lambda training: not training.stream_weights or training.lora.variant != "dora",
                field="streamWeights",
            ),
            Rule(
                "dpo compares the model with what it is without its adapter: set method to lora or qlora",
                lambda training: training.dpo is None or training.method in ("lora", "qlora"),
                cel="!has(self.dpo) || !has(self.method) || self.method in ['lora', 'qlora']",
                field="dpo",
            ),
            *_rules_of_backends(),
        )


class OptionalField(NamedTuple):
    """A field of training that some backends have."""

    is_asked_for: Callable[[Training], bool]
    asks_in_cel: str = ""
    """The same of a field that is set; empty: CEL cannot read it."""


OPTIONAL: Final = {
    "attention": OptionalField(lambda training: training.attention != AUTO, f"self.attention != '{AUTO}'"),
    "dpo": OptionalField(lambda training: training.dpo is not None, "true"),
    "overrides": OptionalField(lambda training: bool(training.overrides)),
    "packing": OptionalField(lambda training: training.packing is True, "self.packing"),
    "streamWeights": OptionalField(lambda training: training.stream_weights, "self.streamWeights"),
    "useLigerKernel": OptionalField(lambda training: training.use_liger_kernel is True, "self.useLigerKernel"),
}
"""Fields that not every backend has, by their names in the spec; registry.Backend.has names those that it has."""


def _rules_of_backends() -> tuple[Rule, ...]:
    """A rule for each optional field: it is set only with backends that have it."""
    return tuple(_only_where_it_is(field, optional) for field, optional in OPTIONAL.items())


def _only_where_it_is(field: str, optional: OptionalField) -> Rule:
    having = [name for name, backend in BACKENDS.items() if field in backend.has]
    asked = f"has(self.{field}) && {optional.asks_in_cel}"
    return Rule(
        f"of the backends only {' and '.join(having)} {'has' if len(having) == 1 else 'have'} it: leave it out, or set "
        f"backend: {having[0]}",
        lambda training: not optional.is_asked_for(training) or field in BACKENDS[training.backend].has,
        cel=f"!({asked}) || (has(self.backend) ? self.backend : '{PEFT}') in {having}" if optional.asks_in_cel else "",
        field=field,
    )
