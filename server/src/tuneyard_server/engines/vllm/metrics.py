"""vLLM's metrics: https://docs.vllm.ai/en/stable/usage/metrics/"""

import re
from typing import Final

from tuneyard_api.contracts.serving import Speculation
from tuneyard_server.engines.base import Work

REQUESTS: Final = ("vllm:num_requests_running", "vllm:num_requests_waiting")
DRAFTED: Final = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED: Final = "vllm:spec_decode_num_accepted_tokens_total"
STEPS: Final = "vllm:iteration_tokens_total_count"  # one observation for each step of the engine


def work(metrics: str) -> Work | None:
    """The requests of an engine and the steps that it has taken; None before its first request."""
    if STEPS not in metrics:
        return None
    return Work(int(sum(total(metrics, name) for name in REQUESTS)), total(metrics, STEPS))


def speculation(metrics: str) -> Speculation | None:
    """How many tokens were guessed, and how many of them rightly; None where speculative decoding is off."""
    if DRAFTED not in metrics:
        return None
    return Speculation(drafted=int(total(metrics, DRAFTED)), accepted=int(total(metrics, ACCEPTED)))


def total(metrics: str, name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE))
