"""A dry run of vLLM's own parser: finds a wrong option while the artifact is downloaded, before the engine starts."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tuneyard_api import names
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.kinds.vllm import Vllm
from tuneyard_server.engines.base import Cause
from tuneyard_server.engines.vllm.causes import explain
from tuneyard_server.engines.vllm.command import command

log = logging.getLogger(__name__)

SECONDS: Final = 180  # it takes about 8; a busy node must not keep a model from being served
# Fields whose values only vLLM knows. The others were checked when the spec was applied.
ONLY_VLLM_KNOWS: Final = (
    "extra_args",
    "attention_backend",
    "kv_cache_dtype",
    "quantization",
    "reasoning_parser",
    "tool_call_parser",
)


def check(request: EngineRequest, options: Vllm) -> Cause | None:
    """What vLLM says against the options; None where it accepts them, or cannot be asked here."""
    if not any(getattr(options, field) for field in ONLY_VLLM_KNOWS):
        return None
    made = command(request, options, Path("/dev/null"))
    dry_run = [sys.executable, "-m", "tuneyard_server.engines.vllm.dry_run", *made.argv[2:]]
    try:
        done = subprocess.run(
            dry_run,
            env=os.environ | made.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        log.warning("vLLM did not check its options within %d s; the engine will", SECONDS)
        return None
    if done.returncode == names.EXIT_BAD_INPUT:
        return explain(done.stdout.splitlines())
    if done.returncode:
        log.warning("vLLM could not check its options here; the engine will: %s", done.stdout.strip()[-500:])
    return None
