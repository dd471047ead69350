"""What all contracts share: camelCase on the wire; fields that a newer version has added are ignored."""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Contract(BaseModel):
    """Something that one part hands to another."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, defer_build=True
    )

    def wire(self) -> dict[str, Any]:
        """The JSON form, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
