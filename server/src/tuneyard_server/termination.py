"""The termination message: what the operator tells a person when a container has ended."""

import json
import os
from pathlib import Path
from typing import Final

PATH_VARIABLE: Final = "TUNEYARD_TERMINATION_LOG"
DEFAULT_PATH: Final = "/dev/termination-log"
LIMIT_BYTES: Final = 4096  # what the kubelet keeps

EXIT_UNKNOWN: Final = 1
EXIT_BAD_INPUT: Final = 65
EXIT_TRY_AGAIN: Final = 75


def write_message(reason: str, message: str, advice: str = "") -> None:
    """Writes {"reason", "message", "advice"} as JSON, shortened to what the kubelet keeps."""
    path = Path(os.environ.get(PATH_VARIABLE, DEFAULT_PATH))
    if path.parent.is_dir():
        path.write_text(shortened(reason, message, advice))


def shortened(reason: str, message: str, advice: str) -> str:
    text = json.dumps({"reason": reason, "message": message, "advice": advice})
    excess = len(text.encode()) - LIMIT_BYTES
    # A character takes at most six bytes as a JSON escape, so cutting `excess` characters is always enough.
    return text if excess <= 0 else shortened(reason, message[: max(0, len(message) - excess)], advice)
