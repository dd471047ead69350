"""The engine llama.cpp: its command line, the file that it serves, causes of crashes."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.memorystore import MemoryStore
from tuneyard_api import cpu, names, reasons
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.contracts.termination import Termination
from tuneyard_server import fetch as fetching
from tuneyard_server.engines import engine_command, load_engine
from tuneyard_server.engines.llamacpp import explain, work
from tuneyard_server.fetch import Artifact
from tuneyard_store.artifact import publish_directory

SOCKET = Path("/run/tuneyard/engine.sock")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "bot-Q5_K_M.gguf").touch()
    (tmp_path / "manifest.json").touch()
    return tmp_path


def flags(model: Path, threads: int | None = None, gpus: int = 0, **options: Any) -> dict[str, str | None]:
    """--name value pairs of the command; a switch has None."""
    request = EngineRequest(
        engine="llamacpp", model=model, served_name="bot", gpus=gpus, threads=threads, options=options
    )
    program, *words = engine_command(request, SOCKET).argv
    assert program == "llama-server"
    pairs = pairwise([*words, "--"])
    return {word: None if after.startswith("--") else after for word, after in pairs if word.startswith("--")}


def test_listens_on_a_socket_only(model: Path) -> None:
    found = flags(model)
    assert found["--model"] == str(model / "bot-Q5_K_M.gguf")
    assert found["--alias"] == "bot"
    assert found["--host"] == str(SOCKET)
    assert SOCKET.suffix == ".sock", "llama-server takes any other name for a host"
    assert "--port" not in found


def test_no_page_no_downloads_and_no_view_of_requests(model: Path) -> None:
    assert flags(model).keys() >= {"--no-ui", "--no-slots", "--offline", "--jinja", "--metrics"}


def test_each_request_has_the_whole_length(model: Path) -> None:
    found = flags(model, maxModelLen=1024, parallel=3)
    assert (found["--ctx-size"], found["--parallel"]) == ("3072", "3")
    assert "--no-kv-unified" in found


def test_requests_share_the_models_own_length(model: Path) -> None:
    found = flags(model)
    assert (found["--ctx-size"], found["--parallel"]) == ("0", "4")
    assert "--kv-unified" in found


def test_memory_is_bounded(model: Path) -> None:
    """llama-server's own default keeps 8 GiB of earlier prompts."""
    assert flags(model)["--cache-ram"] == "0"
    assert flags(model, promptCacheMiB=256)["--cache-ram"] == "256"
    found = flags(model, kvCacheType="q8_0", flashAttention="on")
    assert (found["--cache-type-k"], found["--cache-type-v"], found["--flash-attn"]) == ("q8_0", "q8_0", "on")


def test_threads_follow_the_cpu_limit(model: Path) -> None:
    assert flags(model, threads=3)["--threads"] == "3"
    assert "--threads" not in flags(model)


def test_layers_on_the_gpu(model: Path) -> None:
    assert "--gpu-layers" not in flags(model, gpus=1), "llama-server's own default: all that fit"
    assert flags(model, gpus=1, gpuLayers=0)["--gpu-layers"] == "0"


def test_extra_args_come_last(model: Path) -> None:
    found = flags(model, maxModelLen=64, extraArgs={"threads": "7", "swa-full": ""}, threads=3)
    assert found["--threads"] == "7"
    assert found["--swa-full"] is None


@pytest.mark.parametrize(("files", "message"), [([], "no GGUF file"), (["a.gguf", "b.gguf"], "several GGUF files")])
def test_one_model_is_served(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        flags(tmp_path)


def test_model_in_several_files(tmp_path: Path) -> None:
    for number in (2, 1):
        (tmp_path / f"big-0000{number}-of-00002.gguf").touch()
    assert flags(tmp_path)["--model"] == str(tmp_path / "big-00001-of-00002.gguf")


def test_all_routes_are_the_openai_api() -> None:
    vllm, llamacpp = ({route.path for route in load_engine(name).routes} for name in ("vllm", "llamacpp"))
    assert llamacpp == vllm


def test_cause_of_a_crash() -> None:
    option = explain(["error: invalid argument: --frobnicate\n"])
    assert (option.message, option.reason) == ("invalid argument: --frobnicate", reasons.INVALID_SPEC)
    value = explain(['error while handling argument "--top-k": stoi\n'])
    assert value.message == 'error while handling argument "--top-k": stoi'
    log = [
        "0.00.002.400 I srv    load_model: loading model 'x.gguf'\n",
        "0.00.102.300 E llama_model_load: error loading model: invalid magic characters: 'abcd', expected 'GGUF'\n",
        "0.00.102.400 E srv    load_model: failed to load model, 'x.gguf'\n",
        "0.00.102.500 E srv  llama_server: exiting due to model loading error\n",
    ]
    assert (
        explain(log).message
        == "llama_model_load: error loading model: invalid magic characters: 'abcd', expected 'GGUF'"
    )
    assert explain(log[:1]).message == "no error in its log"
    memory = explain(["0.01.2 E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9\n"])
    assert memory.reason == reasons.OUT_OF_MEMORY


def test_work_is_read_from_the_metrics() -> None:
    text = "llamacpp:n_decode_total 12\nllamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n"
    assert work(text) == (3, 12.0)
    assert work("# nothing yet\n") is None


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Artifact]:
    """A function that publishes an artifact of a format to the store from which `fetch` reads."""
    store = MemoryStore()
    monkeypatch.setattr(fetching, "open_store", lambda credentials: store)
    monkeypatch.setattr(fetching, "from_environment", lambda: None)
    monkeypatch.setenv(names.ENV_TERMINATION_LOG, str(tmp_path / "termination"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_text("x")

    def publish(artifact_format: str) -> Artifact:
        digest = publish_directory(store, source, "s3://bucket/artifact", artifact_format).digest
        return Artifact("s3://bucket/artifact", digest, tmp_path / "to")

    return publish


@pytest.mark.parametrize(
    ("artifact_format", "engine", "code"),
    [
        ("gguf-q5_k_m", "llamacpp", 0),
        ("gguf-q5_k_m", "vllm", names.EXIT_BAD_INPUT),
        ("int8", "llamacpp", names.EXIT_BAD_INPUT),
        ("of-a-newer-version", "vllm", 0),
    ],
)
def test_artifact_of_another_engine_is_refused(
    artifact_format: str, engine: str, code: int, served: Callable[[str], Artifact], tmp_path: Path
) -> None:
    artifact = served(artifact_format)
    assert fetching.fetch(artifact, None, tmp_path / "none", engine) == code
    assert (artifact.to / "weights").exists() == (code == 0)
    if code:
        termination = Termination.parse((tmp_path / "termination").read_text())
        assert termination is not None
        assert termination.reason == reasons.FORMAT_NOT_LOADABLE
        assert f"The artifact is {artifact_format}, which {engine} cannot load. Set spec.engine:" in termination.text


@pytest.mark.parametrize(
    ("artifact_format", "on_cpu", "flags", "code"),
    [
        ("gptq", True, "fma avx2", names.EXIT_BAD_INPUT),
        ("awq", True, "fma avx2", names.EXIT_BAD_INPUT),
        ("gptq", True, "fma avx2 avx512f", 0),
        ("gptq", False, "fma avx2", 0),
        ("int8", True, "fma avx2", 0),
    ],
)
def test_artifact_without_a_kernel_for_this_cpu_is_refused(
    artifact_format: str,
    on_cpu: bool,
    flags: str,
    code: int,
    served: Callable[[str], Artifact],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    assert fetching.fetch(served(artifact_format), None, tmp_path / "none", "vllm", on_cpu=on_cpu) == code
    if code:
        termination = Termination.parse((tmp_path / "termination").read_text())
        assert termination is not None
        assert termination.reason == reasons.FORMAT_NOT_LOADABLE
        assert f"{artifact_format}, which vllm serves only on CPUs with avx512f" in termination.text
