"""What to do about a state that its message alone does not tell."""

from typing import Final

ADVICE: Final = {
    "exceeded quota": "The namespace's ResourceQuota is used up: raise it, or wait until other pods have ended.",
    "Unschedulable": "No node has room for it: ask for less in spec.resources, or add a node.",
    "ErrImage": "The node does not get the image: look at images and imagePullSecrets in the chart's values.",
    "ImagePullBackOff": "The node does not get the image: look at images and imagePullSecrets in the chart's values.",
    "FailedMount": "A Secret that the spec names is missing in this namespace.",
    "CreateContainerConfigError": "A Secret that the spec names, or a key of it, is missing in this namespace.",
    "violates PodSecurity": "The namespace's Pod Security level refuses the pod.",
}
AGAIN: Final = (
    "Change the spec and apply it again. Where the spec was right, delete the job and apply it again. "
    "Stages that are done are taken over, not run again."
)
UNSEEN: Final = (
    "The operator has not looked at it yet. Does it run? kubectl get deployments -A -l app.kubernetes.io/name=tuneyard"
)
OUTDATED: Final = "The spec has changed since; the operator has not looked at it yet."


def advice_on(message: str) -> list[str]:
    """At most one sentence."""
    return [advice for words, advice in ADVICE.items() if words in message][:1]
