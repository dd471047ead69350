"""Speed of artifacts on the engines that serve them: python -m bench.levels TOKENIZER LEVEL=DIRECTORY ...

Run it in the server image: the load comes from vLLM's own `vllm bench serve`, for both engines. GGUF needs llama-server
on the PATH. Each engine is started as a ModelServer starts it, one after the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

from bench.figures import table
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_server.engines import engine_command

NAME: Final = "model"
TOGETHER: Final = 8
START_SECONDS: Final = 900.0  # on a very busy machine
PROMPT_TOKENS: Final = 64
ANSWER_TOKENS: Final = 32


@contextmanager
def engine(directory: Path, threads: int, log: Path) -> Iterator[str]:
    """The address of an engine that serves a directory."""
    name = "llamacpp" if any(directory.glob("*.gguf")) else "vllm"
    request = EngineRequest(engine=name, model=directory, served_name=NAME, threads=threads)
    nowhere = log.with_suffix(".sock")
    command = engine_command(request, nowhere)
    port = free_port()
    # The load comes over TCP.
    words = [word.replace(str(nowhere), "127.0.0.1") for word in command.argv if not word.startswith("--uds=")]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*words, "--port", str(port)],
            env=os.environ | command.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the engine ended: {log.read_text()[-2000:]}")
        try:
            with urlopen(f"{url}/health", timeout=5):  # noqa: S310 - the engine on this machine
                return
        except (URLError, TimeoutError):
            time.sleep(0.5)
    raise SystemExit(f"the engine does not answer: {log.read_text()[-2000:]}")


def load(url: str, tokenizer: Path, at_once: int, folder: Path) -> dict[str, Any]:
    """What vLLM's load tool measures with so many requests at once, after one round that is not measured."""
    options = {
        "backend": "openai",
        "base-url": url,
        "endpoint": "/v1/completions",
        "model": NAME,
        "tokenizer": tokenizer,
        "dataset-name": "random",
        "random-input-len": PROMPT_TOKENS,
        "random-output-len": ANSWER_TOKENS,
        "seed": at_once,  # prompts that no run before has left in the cache
        "num-warmups": at_once,
        "num-prompts": 4 * at_once,
        "max-concurrency": at_once,
        "result-dir": folder,
        "result-filename": "load.json",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run(
        ["vllm", "bench", "serve", *words, "--ignore-eos", "--save-result", "--disable-tqdm"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    found: dict[str, Any] = json.loads((folder / "load.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tokenizer", type=Path, help="A directory with the model's tokenizer, such as the bf16 artifact."
    )
    parser.add_argument("levels", nargs="+", metavar="LEVEL=DIRECTORY")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    rows = [["level", "first token, ms", "tokens/s alone", f"tokens/s of {TOGETHER} at once"]]
    for level in given.levels:
        name, _, directory = level.partition("=")
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            with engine(Path(directory), given.threads, folder / "log") as url:
                alone, together = (load(url, given.tokenizer, at_once, folder) for at_once in (1, TOGETHER))
        speeds = [f"{found['output_throughput']:.1f}" for found in (alone, together)]
        rows.append([name, f"{alone['median_ttft_ms']:.0f}", *speeds])
        print(" ".join(rows[-1]), f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main()
