"""A real engine on a tiny model with random weights. tests/integration/run starts these tests in the server image."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engines.options import MODEL
from support.tinymodel import TEMPLATE, TURN_END, TURN_START, byte_tokenizer
from tuneyard_api.contracts.serving import EngineRequest

START_SECONDS = 900.0  # on a very busy machine; a quiet one takes 40
KEY = "sk-engines-0123456789"


class Engine(NamedTuple):
    """A running engine, with a client of its socket."""

    process: subprocess.Popen[str]
    client: httpx.Client
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "engine.sock"

    def processes(self) -> set[int]:
        """The engine's processes: of the supervisor's child and its children, which are one session."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) in self.sessions():
                found.add(int(path.parent.name))
        return found

    def sessions(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(child) for child in children}

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def log(self) -> str:
        return (self.folder / "log").read_text()


Start = Callable[..., Engine]


def write_tiny_model(directory: Path, layers: int, seed: int = 0) -> Path:
    """A Llama with random weights over bytes; models with the same seed share their embeddings."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.token_to_id(TURN_START),
        eos_token_id=tokenizer.token_to_id(TURN_END),
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": TURN_START, "eos_token": TURN_END}
    (directory / "tokenizer_config.json").write_text(json.dumps(about | {"chat_template": TEMPLATE}))
    return directory


def pytest_configure(config: pytest.Config) -> None:
    """These tests run without pyproject.toml, which declares the marker."""
    config.addinivalue_line("markers", "slow: takes more than a minute")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), 2)


@pytest.fixture(scope="module")
def start(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """A function that starts an engine with some options of spec.vllm, and waits until it answers."""
    running: list[Engine] = []

    def begin(**options: Any) -> Engine:
        folder = tmp_path_factory.mktemp("engine")
        (folder / "drained").touch()
        request = EngineRequest(engine="vllm", model=model, served_name=MODEL, threads=2, options=options)
        command = [
            "engine",
            "--request",
            request.model_dump_json(by_alias=True),
            "--socket",
            str(folder / "engine.sock"),
        ]
        engine = Engine(
            subprocess.Popen(
                [sys.executable, "-m", "tuneyard_server.cli", *command, "--drained", str(folder / "drained")],
                env=os.environ | {"TUNEYARD_TERMINATION_LOG": str(folder / "termination")},
                stdout=(folder / "log").open("w"),
                stderr=subprocess.STDOUT,
                text=True,
            ),
            httpx.Client(
                transport=httpx.HTTPTransport(uds=str(folder / "engine.sock")), base_url="http://engine", timeout=120
            ),
            folder,
        )
        running.append(engine)
        wait_until_ready(engine)
        return engine

    yield begin
    for engine in running:
        engine.process.terminate()
        engine.process.wait(60)


def wait_until_ready(engine: Engine) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert engine.process.poll() is None, engine.log()[-3000:]
        try:
            if engine.client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"the engine does not answer: {engine.log()[-3000:]}")
