"""The server's pure parts: command lines, nginx's configuration, keys, causes, termination messages."""

import json
import re
from pathlib import Path

import pytest

from tuneyard_server.cli import engine_options, parser
from tuneyard_server.engines.base import EngineOptions
from tuneyard_server.engines.vllm import vllm_command
from tuneyard_server.proxy.config import ROUTES, InvalidKeyError, read_keys, render
from tuneyard_server.supervisor import cause
from tuneyard_server.termination import LIMIT_BYTES, shortened

OPTIONS = EngineOptions(Path("/models/model"), "bot", Path("/run/tuneyard/engine.sock"))


def flags(argv: list[str]) -> dict[str, str | None]:
    """--name value pairs; a switch has None."""
    found: dict[str, str | None] = {}
    for word, after in zip(argv, [*argv[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = None if after.startswith("--") else after
    return found


def test_vllm_listens_on_a_socket_only() -> None:
    argv = vllm_command(OPTIONS, on_cpu=False).argv
    assert argv[:3] == ["vllm", "serve", "/models/model"]
    assert flags(argv) == {"--served-model-name": "bot", "--uds": "/run/tuneyard/engine.sock"}


def test_the_cpu_build_neither_compiles_nor_splits() -> None:
    options = OPTIONS._replace(tensor_parallel_size=2, gpu_memory_utilization=0.9, max_model_len=512)
    found = flags(vllm_command(options, on_cpu=True).argv)
    assert found["--enforce-eager"] is None
    assert found["--max-model-len"] == "512"
    assert "--tensor-parallel-size" not in found
    assert "--gpu-memory-utilization" not in found


def test_threads_follow_the_limit_of_a_container_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, threads in ((1, "1"), (2, "1"), (8, "7")):
        environment = vllm_command(OPTIONS._replace(threads=limit), on_cpu=True).environment
        assert environment["OMP_NUM_THREADS"] == threads
    for command in (vllm_command(OPTIONS, on_cpu=True), vllm_command(OPTIONS._replace(threads=3), on_cpu=False)):
        assert "OMP_NUM_THREADS" not in command.environment
    monkeypatch.setenv("TUNEYARD_THREADS", "4")
    assert engine_options(parser().parse_args(["engine", "--model", "/m", "--served-name", "x"])).threads == 4


def test_a_gpu_gets_what_was_asked_for() -> None:
    found = flags(vllm_command(OPTIONS._replace(tensor_parallel_size=2, gpu_memory_utilization=0.8), on_cpu=False).argv)
    assert found["--tensor-parallel-size"] == "2"
    assert found["--gpu-memory-utilization"] == "0.8"


def test_the_users_own_options_win() -> None:
    options = OPTIONS._replace(extra={"dtype": "float32", "enable-prefix-caching": ""})
    found = flags(vllm_command(options, on_cpu=True).argv)
    assert found["--dtype"] == "float32"
    assert found["--enable-prefix-caching"] is None


def test_nothing_calls_the_outside() -> None:
    environment = vllm_command(OPTIONS, on_cpu=True).environment
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"


def test_an_option_may_hold_an_equals_sign() -> None:
    words = ["engine", "--model", "/m", "--served-name", "x", "--extra", "rope-scaling={a=b}", "--extra", "switch="]
    assert engine_options(parser().parse_args(words)).extra == {"rope-scaling": "{a=b}", "switch": ""}


def test_only_listed_routes_have_a_location() -> None:
    text = render(Path("/run/e.sock"), Path("/tmp/x"), ["a-key-of-mine"])
    assert set(re.findall(r"location = (\S+) ", text)) == {route.path for route in ROUTES}
    assert "$request_uri" not in text, "a path as the client wrote it never reaches the engine"


def test_each_guarded_route_checks_the_key_if_there_is_one() -> None:
    guarded = sum(route.key_needed for route in ROUTES)
    assert render(Path("/s"), Path("/t"), ["a-key-of-mine"]).count("$key_known = 0") == guarded
    assert render(Path("/s"), Path("/t"), []).count("$key_known = 0") == 0


def test_signs_of_a_key_mean_nothing_to_nginx() -> None:
    text = render(Path("/s"), Path("/t"), ['a"; }\\.*$(b)'])
    (pattern,) = re.findall(r'"~\^Bearer (.*)\$" 1;', text)
    assert re.fullmatch(r"(\w|\\x[0-9a-f]{2})+", pattern)


@pytest.mark.parametrize("text", ["", "\n\n", "short", "with a space", "tab\tinside", "ümlaut-key"])
def test_unusable_keys_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(InvalidKeyError):
        read_keys(tmp_path / "key")


def test_several_keys_are_valid_so_that_one_can_be_replaced_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("first-key\nsecond-key\n")
    assert read_keys(tmp_path / "key") == ["first-key", "second-key"]


def test_the_cause_is_the_error_that_a_person_needs() -> None:
    log = [
        "INFO starting",
        "(EngineCore pid=9) ValueError: max_model_len 9000 is larger than 2048",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    assert cause(log) == "ValueError: max_model_len 9000 is larger than 2048"
    assert cause(["nothing"]) == "no error in its log"
    assert cause([*log[:2], "", log[2]]) == cause(log)


def test_of_a_validation_error_the_cause_is_what_is_not_valid() -> None:
    log = [
        "pydantic_core.ValidationError: 1 validation error for ModelConfig\n",
        "  Value error, max_model_len (900000) is greater than 8192. [type=value_error, input_value=...]\n",
        "    For further information visit https://errors.pydantic.dev\n",
    ]
    assert cause(log) == "pydantic_core.ValidationError: Value error, max_model_len (900000) is greater than 8192."


def test_a_long_message_is_shortened_and_stays_json() -> None:
    text = shortened("EngineCrashed", "ä" * 10_000, "Look at the log.")
    assert len(text.encode()) <= LIMIT_BYTES
    assert json.loads(text)["advice"] == "Look at the log."
