"""A new engine is one module and one line of the registry."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tuneyard_api import registry
from tuneyard_api.base import Model
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_server import cli
from tuneyard_server.engines import engine_command, load_engine
from tuneyard_server.engines.base import Cause, Command, Engine, Route
from tuneyard_server.proxy.config import Front, render

SOCKET = Path("/run/tuneyard/engine.sock")


class LlamaOptions(Model):
    context_size: int = 4096


def llama_command(request: EngineRequest, options: LlamaOptions, socket: Path) -> Command:
    return Command(["llama-server", str(request.model), f"--ctx-size={options.context_size}", f"--host={socket}"], {})


@pytest.fixture(autouse=True)
def _new_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("tuneyard_server.engines.llama_cpp")
    routes = (Route("/v1/chat/completions", "POST"), Route("/props", "GET"))
    engine = Engine(LlamaOptions, llama_command, routes, lambda lines: Cause("".join(lines)), lambda metrics: None)
    vars(module)["ENGINE"] = engine
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.ENGINES, "llama-cpp", registry.Engine("llama.cpp"))


def test_engine_command_comes_from_its_module() -> None:
    request = '{"engine": "llama-cpp", "model": "/m", "servedName": "bot", "options": {"contextSize": 512}}'
    options = cli.parser().parse_args(["engine", "--request", request])
    command = engine_command(EngineRequest.model_validate_json(options.request), options.socket)
    assert command.argv == ["llama-server", "/m", "--ctx-size=512", f"--host={SOCKET}"]


def test_proxy_serves_the_routes_of_the_engine() -> None:
    options = cli.parser().parse_args(["proxy", "--engine", "llama-cpp", "--served-name", "bot"])
    front = Front(load_engine(options.engine).routes, options.served_name)
    text = render(front, options.socket, options.scratch, ["a-key-of-mine"])
    assert re.findall(r"proxy_pass http://engine(\S+);", text) == [
        "/v1/chat/completions", "/props", "/health", "/metrics"
    ]  # fmt: skip


def test_every_registered_engine_has_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry.ENGINES, "llama-cpp")
    for name in registry.ENGINES:
        assert load_engine(name).routes
