"""What a kind of the API is: its models, and how kubectl shows it."""

from typing import Any, Final, NamedTuple

from tuneyard_api.base import Model, cel
from tuneyard_api.names import GROUP

Json = dict[str, Any]

# The name of a child is `<name>-<stage>-<hash>`, which has to fit into a label (63 characters).
NAME_FITS: Final = cel("size(self.metadata.name) <= 44", "metadata.name may have at most 44 characters")


class Column(NamedTuple):
    name: str
    path: str
    type: str = "string"
    priority: int = 0

    def wire(self) -> Json:
        column: Json = {"name": self.name, "jsonPath": self.path, "type": self.type}
        return column | ({"priority": self.priority} if self.priority else {})


class Kind(NamedTuple):
    """One kind of the API and how kubectl shows it."""

    kind: str
    plural: str
    short: str
    spec: type[Model]
    status: type[Model]
    columns: list[Column]
    rules: list[dict[str, str]]
    scale: Json | None = None

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")
