"""What a kind of the API is: its models, and how kubectl shows it."""

from typing import Any, Final, NamedTuple

from tuneyard_api.base import Model
from tuneyard_api.names import GROUP
from tuneyard_api.rules import Rule

Json = dict[str, Any]

# The name of a child is `<name>-<stage>-<hash>`, which has to fit into a label (63 characters).
NAME_FITS: Final = Rule(
    "metadata.name may have at most 44 characters",
    lambda document: len(document["metadata"]["name"]) <= 44,
    cel="size(self.metadata.name) <= 44",
    field="metadata.name",
)


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
    rules: list[Rule]
    """What name and spec must be like together; their predicates take the whole object."""
    transitions: tuple[dict[str, str], ...] = ()
    """Rules that compare with what is stored, in CEL: only the API server can judge them."""
    scale: Json | None = None

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")
