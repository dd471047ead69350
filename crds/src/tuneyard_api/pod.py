"""What a spec says of its pods beside their resources: labels, annotations, and who they are."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import InitErrorDetails

from tuneyard_api.base import Model, ObjectNameOrEmpty
from tuneyard_api.names import GROUP
from tuneyard_api.rules import Rule, matches, violated

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_WORD: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
KEY: Final = matches(
    rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_WORD}",
    "no object can have this key: write up to 63 letters, digits, '-', '_' and '.', after a domain and '/' if needed",
)
VALUE: Final = matches(
    f"({_WORD})?",
    "no label can have this value: write up to 63 letters, digits, '-', '_' and '.', a letter or a digit at both ends",
)
# Selectors use these labels.
RESERVED: Final = (f"{GROUP}/", "app.kubernetes.io/")
NOT_RESERVED: Final = Rule(
    f"the operator sets the labels of {' and '.join(RESERVED)} itself: write another key",
    lambda key: not key.startswith(RESERVED),
)


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Raises ValidationError for each label that a pod cannot have."""
    return _check(labels, KEY, NOT_RESERVED, value=VALUE)


def _check_annotations(annotations: dict[str, str]) -> dict[str, str]:
    return _check(annotations, KEY, NOT_RESERVED)


def _check(pairs: dict[str, str], *of_key: Rule, value: Rule | None = None) -> dict[str, str]:
    errors = [
        InitErrorDetails(type=violated(rule.message), loc=(key,), input=given)
        for key, text in pairs.items()
        for rule, given in [*((rule, key) for rule in of_key), *([(value, text)] if value else [])]
        if not rule.accepts(given)
    ]
    if errors:
        raise ValidationError.from_exception_data("pod", errors)
    return pairs


class PodOptions(Model):
    """Of every pod of the object."""

    labels: Annotated[dict[str, str], AfterValidator(_check_labels)] = Field(
        default={}, description="Additional labels, for example azure.workload.identity/use: 'true'."
    )
    annotations: Annotated[dict[str, str], AfterValidator(_check_annotations)] = Field(
        default={}, description="Additional annotations, for example sidecar.istio.io/inject: 'false'."
    )
    service_account_name: ObjectNameOrEmpty | None = Field(
        default=None,
        description="The pods' service account, for workload identity: with it the Secret of the store needs no keys. "
        "Its token is not mounted. Default: the namespace's default.",
    )
