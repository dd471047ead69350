"""A base model as prepare knows it: its files, its configuration and the headers of its weights, but no weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneyard_store.store import ObjectInfo
from tuneyard_trainer.model.architectures import Structure, kind_of, structure_of
from tuneyard_trainer.model.shape import ModelShape, TensorInfo


@dataclass(frozen=True)
class BaseModel:
    """The model at `uri`."""

    uri: str
    directory: Path
    """Has its small files: configuration, tokenizer, template and index."""
    files: Mapping[str, ObjectInfo]
    """All its files, by their names."""
    config: Mapping[str, Any]
    """config.json."""
    shards: Mapping[str, Mapping[str, TensorInfo]] = field(default_factory=dict)
    """The tensors of each weight file by their names."""

    def file(self, name: str) -> str:
        """A file of the model, for messages."""
        return f"{self.uri.rstrip('/')}/{name}"

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """The tensors of all weight files."""
        return {name: tensor for shard in self.shards.values() for name, tensor in shard.items()}

    @cached_property
    def shape(self) -> ModelShape:
        """What the formats and the adapter ask of it."""
        return ModelShape(
            self.config,
            {name: tensor.shape for name, tensor in self.tensors.items()},
            self.directory / "tokenizer.json",
        )

    @property
    def model_type(self) -> str:
        """As config.json says it; empty where it does not."""
        return str(self.config.get("model_type") or "")

    @property
    def kind(self) -> str | None:
        """What transformers knows of the model's type; None: it does not know it."""
        return kind_of(self.model_type)

    @cached_property
    def structure(self) -> Structure | None:
        """The parameters that every model of this type has, where that is known."""
        return structure_of(self.model_type)
