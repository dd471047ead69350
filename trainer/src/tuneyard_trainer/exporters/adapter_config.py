"""An adapter's adapter_config.json, checked before PEFT reads it in a worker: PEFT's own errors name no file."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from tuneyard_api import reasons
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.userfiles import read_object

FILE: Final = "adapter_config.json"
ADVICE: Final = "Upload the adapter again as PEFT has saved it (model.save_pretrained)."

Rank = Annotated[int, Field(gt=0, le=65536)]
Alpha = Annotated[FiniteFloat, Field(gt=0)]


class AdapterConfig(BaseModel):
    """What a merge depends on, of peft.LoraConfig; the other fields are PEFT's own affair."""

    model_config = ConfigDict(extra="allow", strict=True)

    peft_type: Literal["LORA"]
    r: Rank
    lora_alpha: Alpha
    target_modules: str | list[str] | None = None
    target_parameters: list[str] | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    task_type: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, read: Any) -> Any:
        """PEFT reads null as unset, and Axolotl writes it."""
        return {name: value for name, value in read.items() if value is not None} if isinstance(read, dict) else read


def read_adapter_config(directory: Path, uri: str) -> AdapterConfig:
    """The configuration of the adapter in `directory`, a copy of `uri`.

    Raises:
        BadInput: the file is missing, or a field is wrong.
    """
    path, name = directory / FILE, f"{uri.rstrip('/')}/{FILE}"
    if not path.is_file():
        raise BadInput(reasons.INVALID_MODEL, f"{name} does not exist", ADVICE)
    try:
        return AdapterConfig.model_validate(read_object(path, name))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise BadInput(reasons.INVALID_MODEL, f"{name}: {field}: {problem['msg']}", ADVICE) from error
