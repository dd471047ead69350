"""vLLM, on CUDA or on the CPU: its CUDA and CPU builds take different options.

Options: https://docs.vllm.ai/en/stable/cli/serve.html
"""

from typing import Final

from tuneyard_api.kinds.vllm import Vllm
from tuneyard_server.engines.base import Engine, Route
from tuneyard_server.engines.vllm.causes import explain
from tuneyard_server.engines.vllm.check import check
from tuneyard_server.engines.vllm.command import command
from tuneyard_server.engines.vllm.metrics import speculation, work
from tuneyard_server.engines.vllm.model_infos import copy_model_infos

ROUTES: Final = (
    Route("/v1/models", "GET"),
    Route("/v1/chat/completions", "POST"),
    Route("/v1/completions", "POST"),
    Route("/v1/responses", "POST"),
    Route("/v1/embeddings", "POST", not_every_model=True),
    Route("/tokenize", "POST"),
    Route("/detokenize", "POST"),
)

ENGINE: Final = Engine(
    options=Vllm,
    command=command,
    routes=ROUTES,
    explain=explain,
    work=work,
    speculation=speculation,
    check=check,
    before_start=copy_model_infos,
)
