"""The settings of an operator process: environment variables with the prefix TUNEYARD_, named after the fields."""

import secrets
import socket
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX: Final = "TUNEYARD_"


def _words(value: Any) -> Any:
    """Splits text at commas and spaces."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Split = BeforeValidator(_words)
Words = Annotated[tuple[str, ...], NoDecode, Split]


class Settings(BaseSettings):
    """An empty variable counts as one that is not set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    trainer_image: str = Field(description="Image of the stages' pods.")
    server_image: str = Field(description="Image of the pods that serve a model.")
    images: dict[str, str] = Field(
        default={}, description='Images of further roles, as a JSON object: {"role": "reference"}.'
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Pull policy of all images."
    )
    image_pull_secrets: Words = Field(default=(), description="Names of the pods' pull secrets, separated by spaces.")
    namespaces: Words = Field(
        default=(), description="Namespaces to watch, separated by spaces. Default: the whole cluster."
    )
    pod_name: str = Field(default_factory=socket.gethostname, description="Name of this pod. Default: the host's name.")
    pod_namespace: str = Field(default="default", description="Namespace of this pod, and of its Lease.")
    lease: str = Field(
        default="tuneyard", description="Name of the Lease. Of several operators with the same Lease one is active."
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = Field(
        default="INFO", description="The least severe level that is logged."
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = Field(
        default="text", description="Format of the log lines."
    )
    health_port: int = Field(default=8081, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics.")
    webhook_port: int = Field(
        default=0, ge=0, le=65535, description="Port of the admission webhook. Default: 0, it is not served."
    )
    webhook_certificates: Path = Field(
        default=Path("/etc/tuneyard/webhook"), description="Folder with tls.crt and tls.key of the webhook."
    )
    webhook_lookups: Annotated[tuple[Literal["LocalQueue", "PriorityClass", "Secret"], ...], NoDecode, Split] = Field(
        default=(), description="Kinds of objects that the webhook looks up: LocalQueue, PriorityClass, Secret."
    )
    workers: int = Field(default=8, ge=1, description="Objects that are reconciled at the same time.")
    poll: float = Field(default=3.0, gt=0, description="Seconds between two reads of a running stage's progress.")
    max_concurrent_rollouts: int = Field(
        default=3,
        ge=1,
        description="ModelServers that roll out an upgrade of the operator at the same time. A change of a ModelServer "
        "or of its model does not wait.",
    )
    retire: float = Field(
        default=10.0, ge=0, description="Seconds that a replaced revision is kept, for connections that still use it."
    )

    @cached_property
    def identity(self) -> str:
        """This process in the election. No two processes have the same, nor has a restarted container its own again."""
        return f"{self.pod_name}_{secrets.token_hex(4)}"


def from_environment() -> Settings:
    """Raises SystemExit, naming the variables, where one is missing or wrong."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors()]
        raise SystemExit("\n".join(problems)) from None


def described() -> str:
    """The variables with their meaning and default, one a line."""
    return "\n".join(f"  {PREFIX}{name.upper()}  {_described(name)}" for name in Settings.model_fields)


def _described(name: str) -> str:
    field = Settings.model_fields[name]
    text = field.description or ""
    if field.is_required():
        return f"{text} Required."
    if "Default:" in text or field.default in ((), {}):
        return text
    return f"{text} Default: {field.default}."
