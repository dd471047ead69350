"""How speculative decoding goes, as the status shows it."""

from typing import Final

from tuneyard_api.contracts.serving import Speculation
from tuneyard_operator.machinery.objects import Json

REQUEUE_SECONDS: Final = 60.0
"""Between two looks at the pods. The status only changes with the rounded share."""


def guesses(server: Json) -> bool:
    """Whether the spec asks for speculative decoding."""
    return bool(((server.get("spec") or {}).get("vllm") or {}).get("speculative"))


def speculative_status(server: Json, found: Speculation | None) -> Json | None:
    """What the status shows; what it showed before while nothing is known."""
    if not guesses(server):
        return None
    if found is None or not found.drafted:
        before: Json | None = server.get("status", {}).get("speculative")
        return before
    return {"acceptance": round(found.accepted / found.drafted, 2)}
