"""What to do about a state whose message, which the operator writes, does not say it."""

from typing import Final

UNOBSERVED: Final = (
    "The operator has not observed it yet. Is it running? kubectl get deployments -A -l app.kubernetes.io/name=tuneyard"
)
OUTDATED: Final = "The spec has changed since; the operator has not observed the change yet."
