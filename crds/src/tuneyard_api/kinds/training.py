"""How a FineTuneJob trains: spec.training."""

from typing import Annotated, Final, Literal

from pydantic import Field

from tuneyard_api.base import Model, Passed
from tuneyard_api.registry import BACKENDS, OneOf, described
from tuneyard_api.rules import Rule

# The method of a job that only exports, evaluates and publishes.
NO_TRAINING: Final = "none"


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
    variant: Literal["lora", "rslora"] = Field(
        default="lora", description="rslora scales by alpha / sqrt(rank) (arXiv:2312.03732). Default: lora."
    )


class Checkpoints(Model):
    every_minutes: float = Field(default=10, gt=0, description="Minutes between checkpoints. Default: 10.")
    keep: int = Field(default=2, ge=1, le=20, description="Newest checkpoints that are kept. Default: 2.")


class EarlyStopping(Model):
    """Ends a run when validation no longer gets better."""

    patience: int = Field(default=3, ge=1, le=1000, description="Validations without a lower loss. Default: 3.")


class Training(Model):
    backend: Annotated[str, OneOf(BACKENDS)] = Field(
        default="peft", description=f"{described(BACKENDS)} Default: peft."
    )
    method: Literal["lora", "qlora", "none"] = Field(
        default="lora",
        description="qlora holds the base weights in NF4 (arXiv:2305.14314). none: the model is not tuned; it is "
        "exported, evaluated and published as it is. Default: lora.",
    )
    lora: Lora = Lora()
    epochs: float | None = Field(default=None, gt=0, le=1000, description="Default: 3, unless maxSteps is given.")
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(
        default=2e-4, gt=0, le=1, description="Default: 2e-4, about ten times a full tuning's."
    )
    scheduler: Literal["linear", "cosine", "constant"] = Field(default="cosine", description="Default: cosine.")
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="Default: 0.03.")
    effective_batch_size: int = Field(
        default=16, ge=1, le=65536, description="Rows per optimizer step, over all GPUs and nodes. Default: 16."
    )
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows per forward pass and device. Default: the largest of 1, 2, 4, 8 that "
        "divides effectiveBatchSize.",
    )
    max_length: int = Field(default=1024, ge=8, le=1048576, description="Tokens per row. Default: 1024.")
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="Default: bf16.")
    gradient_checkpointing: bool = Field(default=False, description="Default: false.")
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = Field(
        default="auto",
        description="auto: FlashAttention 2 on a GPU if the image has flash-attn, else sdpa. Default: auto.",
    )
    packing: bool = Field(
        default=True,
        description="Rows of a micro batch are trained end to end, without padding; each attends only to itself, so "
        "the result is that of padded rows. Models that cannot do this are trained with padding. Default: true.",
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between two validations, which measure the loss on held-out rows. Default: about 20 "
        "validations, fewer where they would cost more than a fifth of the training.",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="The step whose adapter is exported: the one with the lowest validation loss, or the last. "
        "Default: best.",
    )
    early_stopping: EarlyStopping | None = Field(default=None, description="Default: every step is trained.")
    seed: int = Field(default=42, ge=0, le=4294967295, description="Default: 42.")
    checkpoints: Checkpoints = Checkpoints()
    overrides: Passed | None = Field(
        default=None,
        description="More settings of the backend, by its own names: for axolotl those of its config.yaml. What other "
        "fields set is refused here.",
    )

    @property
    def patience(self) -> int | None:
        """Validations without a lower loss after which the run ends; None: it does not end early."""
        return self.early_stopping.patience if self.early_stopping else None

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "training takes epochs or maxSteps, not both",
                lambda training: training.epochs is None or training.max_steps is None,
                cel="!(has(self.epochs) && has(self.maxSteps))",
            ),
        )
