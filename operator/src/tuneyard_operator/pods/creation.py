"""Why the API server does not let a controller create a pod: quotas, limit ranges, policies, webhooks.

The controllers of Jobs and Deployments only hand on its message, so the cause is found in its words.
"""

import re
from typing import Final, NamedTuple

from tuneyard_api import reasons

# What the Job and ReplicaSet controllers write in front.
PREFIX: Final = re.compile(r"^(?:FailedCreate: )?(?:Error creating: )?")
EXCEEDED: Final = re.compile(r"exceeded quota: ([^,]+)")


class Cause(NamedTuple):
    """A message of the API server, and what to do about it. In the advice {0} is what the pattern has found."""

    pattern: re.Pattern[str]
    reason: str
    advice: str


# The first one that is found applies.
CAUSES: Final = (
    Cause(
        EXCEEDED,
        reasons.QUOTA_EXCEEDED,
        "Raise ResourceQuota {0}, or free what others in this namespace use: it is tried again then.",
    ),
    Cause(
        re.compile(r"failed quota: ([^:]+): must specify"),
        reasons.QUOTA_EXCEEDED,
        "ResourceQuota {0} wants these values: set them in {fields}.",
    ),
    Cause(
        re.compile(r"(?:maximum|minimum|max limit to request ratio).* per (Container|Pod)"),
        reasons.LIMIT_RANGE,
        "Change {fields} so that each {0} fits the namespace's LimitRange, or change that.",
    ),
    Cause(
        re.compile(r"(?:admission webhook|failed calling webhook) \"([^\"]+)\""),
        reasons.ADMISSION_DENIED,
        "Ask who runs the webhook {0}, or change the spec as it says.",
    ),
    Cause(
        re.compile(r"ValidatingAdmissionPolicy '([^']+)'"),
        reasons.ADMISSION_DENIED,
        "Change the spec as the ValidatingAdmissionPolicy {0} wants it.",
    ),
    Cause(
        re.compile(r"violates PodSecurity \"([^\"]+)\""),
        reasons.ADMISSION_DENIED,
        "tuneyard's pods pass the level restricted: see what a webhook of the cluster adds to them.",
    ),
    Cause(
        re.compile(r"((?:PriorityClass with name|RuntimeClass|serviceaccount) \"?[^\" ]+\"?) (?:was )?(?:not )?found"),
        reasons.FAILED_CREATE,
        "Create the {0}, or name another one in the spec.",
    ),
    Cause(re.compile(r""), reasons.FAILED_CREATE, "It is tried again."),
)


class Denial(NamedTuple):
    """A pod, or another object, that the API server does not take."""

    reason: str
    message: str  # the API server's own
    advice: str

    @property
    def text(self) -> str:
        return f"{self.message.rstrip('. ')}. {self.advice}"

    @property
    def passes(self) -> bool:
        """Whether it may be taken when others use less."""
        return EXCEEDED.search(self.message) is not None


def explain_denial(message: str, fields: str) -> Denial:
    """What keeps an object from being created, and what to do.

    Args:
        fields: of the spec, where requests and limits of the containers are set.
    """
    text = PREFIX.sub("", message)
    cause, found = next((cause, found) for cause in CAUSES if (found := cause.pattern.search(text)))
    return Denial(cause.reason, text, cause.advice.format(*found.groups(), fields=fields))
