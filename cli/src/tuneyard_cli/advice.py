"""What to do about a state whose message does not say it."""

from typing import Final

ADVICE: Final = {
    "exceeded quota": "The namespace's ResourceQuota is used up: raise it, or wait until other pods have ended.",
    "Unschedulable": "No node has room for it: ask for less in spec.resources, or add a node.",
    "ErrImage": "The node does not get the image: look at images and imagePullSecrets in the chart's values.",
    "ImagePullBackOff": "The node does not get the image: look at images and imagePullSecrets in the chart's values.",
    "FailedMount": "A Secret that the spec names is missing in this namespace.",
    "CreateContainerConfigError": "A Secret that the spec names, or a key of it, is missing in this namespace.",
    "violates PodSecurity": "The namespace's Pod Security level rejects the pod.",
}
APPLY_AGAIN: Final = (
    "Change the spec and apply it again. Where the spec was right: kubectl tuneyard retry NAME. "
    "Finished stages are reused."
)
UNOBSERVED: Final = (
    "The operator has not observed it yet. Is it running? kubectl get deployments -A -l app.kubernetes.io/name=tuneyard"
)
OUTDATED: Final = "The spec has changed since; the operator has not observed the change yet."


def advice_on(message: str) -> list[str]:
    """At most one sentence of advice."""
    return [advice for words, advice in ADVICE.items() if words in message][:1]
