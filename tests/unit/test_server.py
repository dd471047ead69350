"""The server's pure parts: command lines, nginx's configuration, API keys, causes of crashes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from support.builders import OLD
from support.serving import Serving
from tuneyard_api import cpu, names, reasons
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.contracts.termination import write_termination_message
from tuneyard_api.kinds.vllm import Vllm
from tuneyard_server import cli
from tuneyard_server.engines import engine_command, load_engine
from tuneyard_server.engines.base import Command
from tuneyard_server.engines.vllm import ROUTES
from tuneyard_server.engines.vllm.causes import explain
from tuneyard_server.engines.vllm.command import vllm_command
from tuneyard_server.engines.vllm.model_infos import copy_model_infos
from tuneyard_server.proxy.config import Front, render
from tuneyard_server.proxy.keys import InvalidKeyError, mounted_keys, read_keys

SOCKET = Path("/run/tuneyard/engine.sock")


def engine_request(gpus: int = 0, threads: int | None = None, **options: Any) -> EngineRequest:
    return EngineRequest(
        engine="vllm", model=Path("/models/model"), served_name="bot", gpus=gpus, threads=threads, options=options
    )


def vllm(request: EngineRequest, *, cpu_build: bool, can_compile: bool = True) -> Command:
    options = Vllm.model_validate(request.options)
    return vllm_command(request, options, SOCKET, cpu_build=cpu_build, can_compile=can_compile)


def flags(command: Command) -> dict[str, str | None]:
    """--name=value pairs; a switch has None."""
    words = [word.partition("=") for word in command.argv[3:]]
    return {name: value if equals else None for name, equals, value in words}


def test_vllm_listens_on_a_socket_only() -> None:
    command = vllm(engine_request(), cpu_build=False)
    assert command.argv[:3] == ["vllm", "serve", "/models/model"]
    listening = {"--served-model-name": "bot", "--uds": "/run/tuneyard/engine.sock"}
    assert flags(command) == listening | {"--disable-access-log-for-endpoints": "/health,/metrics"}


@pytest.mark.parametrize(("cpu_flags", "dtype"), [("avx2", "float32"), ("avx2 avx512f", "bfloat16")])
def test_cpu_build_computes_in_what_the_cpu_is_fast_in(
    cpu_flags: str, dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {cpu_flags}\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setitem(vllm_command.__globals__, "version", lambda package: "0.32.0+cpu")
    assert flags(engine_command(engine_request(), SOCKET))["--dtype"] == dtype
    assert flags(engine_command(engine_request(dtype="float16"), SOCKET))["--dtype"] == "float16"


def test_cpu_build_gets_no_gpu_options() -> None:
    request = engine_request(2, tensorParallelSize=2, gpuMemoryUtilization=0.9, maxModelLen=512)
    found = flags(vllm(request, cpu_build=True))
    assert found["--enforce-eager"] is None
    assert found["--max-model-len"] == "512"
    assert "--tensor-parallel-size" not in found
    assert "--gpu-memory-utilization" not in found


@pytest.mark.parametrize(("limit", "threads"), [(1, "1"), (2, "1"), (8, "7")])
def test_threads_follow_cpu_limit(limit: int, threads: str) -> None:
    environment = vllm(engine_request(threads=limit), cpu_build=True).environment
    assert environment["OMP_NUM_THREADS"] == threads


def test_threads_are_vllms_own_without_limit_or_with_gpus() -> None:
    assert "OMP_NUM_THREADS" not in vllm(engine_request(), cpu_build=True).environment
    assert "OMP_NUM_THREADS" not in vllm(engine_request(1, threads=3), cpu_build=False).environment


def test_kv_cache_on_cpu_is_one_gib_or_the_users() -> None:
    assert vllm(engine_request(), cpu_build=True).environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert vllm(engine_request(cpuKVCacheGiB=4), cpu_build=True).environment["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm(engine_request(1), cpu_build=False).environment


def test_model_is_split_over_all_gpus() -> None:
    assert flags(vllm(engine_request(4), cpu_build=False))["--tensor-parallel-size"] == "4"
    assert flags(vllm(engine_request(4, tensorParallelSize=2), cpu_build=False))["--tensor-parallel-size"] == "2"


def test_gpu_memory_needs_a_gpu() -> None:
    assert (
        flags(vllm(engine_request(1, gpuMemoryUtilization=0.8), cpu_build=False))["--gpu-memory-utilization"] == "0.8"
    )
    assert "--gpu-memory-utilization" not in flags(vllm(engine_request(0, gpuMemoryUtilization=0.8), cpu_build=False))


def test_extra_args_override_defaults() -> None:
    extra = {"dtype": "float32", "enable-prefix-caching": "", "rope-scaling": "{a=b}", "some-word": "--dashes"}
    found = flags(vllm(engine_request(dtype="float16", extraArgs=extra), cpu_build=True))
    assert found["--dtype"] == "float32"
    assert found["--enable-prefix-caching"] is None
    assert found["--rope-scaling"] == "{a=b}"
    assert found["--some-word"] == "--dashes"


def test_what_the_proxy_relies_on_comes_last() -> None:
    """argparse takes the last of several, and the beginning of a name for the whole."""
    words = vllm(engine_request(extraArgs={"ud": "/elsewhere"}), cpu_build=True).argv
    assert words[-2:] == ["--served-model-name=bot", f"--uds={SOCKET}"]


@pytest.mark.parametrize(
    ("options", "flag", "value"),
    [
        ({"quantization": "fp8"}, "--quantization", "fp8"),
        ({"dtype": "float16"}, "--dtype", "float16"),
        ({"maxNumSeqs": 8}, "--max-num-seqs", "8"),
        ({"maxNumBatchedTokens": 512}, "--max-num-batched-tokens", "512"),
        ({"kvCacheDtype": "fp8_e4m3"}, "--kv-cache-dtype", "fp8_e4m3"),
        ({"attentionBackend": "FLASH_ATTN"}, "--attention-backend", "FLASH_ATTN"),
        ({"prefixCaching": True}, "--enable-prefix-caching", None),
        ({"prefixCaching": False}, "--no-enable-prefix-caching", None),
        ({"chunkedPrefill": False}, "--no-enable-chunked-prefill", None),
        ({"structuredOutputs": "guidance"}, "--structured-outputs-config.backend", "guidance"),
        ({"reasoningParser": "qwen3"}, "--reasoning-parser", "qwen3"),
        ({"toolCallParser": "hermes"}, "--tool-call-parser", "hermes"),
        ({"toolCallParser": "hermes"}, "--enable-auto-tool-choice", None),
        ({"toolCallParser": "hermes", "enableAutoToolChoice": False}, "--no-enable-auto-tool-choice", None),
        ({"pipelineParallelSize": 2}, "--pipeline-parallel-size", "2"),
        ({"pipelineParallelSize": 2}, "--tensor-parallel-size", "2"),
    ],
)
def test_typed_fields_are_options(options: dict[str, Any], flag: str, value: str | None) -> None:
    found = flags(vllm(engine_request(4, **options), cpu_build=False))
    assert flag in found
    assert found[flag] == value


@pytest.mark.parametrize("field", ["quantization", "dtype", "kvCacheDtype", "attentionBackend", "structuredOutputs"])
def test_auto_is_vllms_own_choice(field: str) -> None:
    options: dict[str, Any] = {field: "auto"}
    assert vllm(engine_request(1, **options), cpu_build=False) == vllm(engine_request(1), cpu_build=False)


def test_speculative_decoding() -> None:
    ngram = flags(vllm(engine_request(speculative={"method": "ngram", "tokens": 3}), cpu_build=True))
    assert json.loads(ngram["--speculative-config"] or "") == {
        "method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 2, "prompt_lookup_max": 5
    }  # fmt: skip
    draft = {"method": "draftModel", "model": {"uri": "s3://models/small", "digest": OLD}}
    drafted = flags(vllm(engine_request(speculative=draft), cpu_build=True))
    assert json.loads(drafted["--speculative-config"] or "") == {
        "method": "draft_model", "num_speculative_tokens": 4, "model": "/models/draft"
    }  # fmt: skip


def test_nothing_is_compiled_without_a_compiler() -> None:
    for cpu_build, can_compile in ((True, False), (True, True), (False, False)):
        command = vllm(engine_request(1), cpu_build=cpu_build, can_compile=can_compile)
        assert command.environment["TORCHDYNAMO_DISABLE"] == "1"
        assert "--enforce-eager" in command.argv
    compiling = vllm(engine_request(1), cpu_build=False, can_compile=True)
    assert "TORCHDYNAMO_DISABLE" not in compiling.environment
    assert "--enforce-eager" not in compiling.argv


def test_no_downloads_and_no_telemetry() -> None:
    environment = vllm(engine_request(), cpu_build=True).environment
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize(
    ("request_json", "message"),
    [
        ("{}", "engine: Field required; model: Field required; servedName: Field required"),
        (
            '{"engine": "tgi", "model": "/m", "servedName": "x"}',
            "There is no engine 'tgi'. This server has llamacpp, vllm.",
        ),
        (
            '{"engine": "vllm", "model": "/m", "servedName": "x", "options": {"maxModelLen": 1}}',
            "maxModelLen: Input should be greater than or equal to 16",
        ),
        (
            '{"engine": "vllm", "model": "/m", "servedName": "x", "options": {"newer": 1}}',
            "newer: Extra inputs are not permitted",
        ),
    ],
    ids=["no fields", "unknown engine", "bad option", "unknown option"],
)
def test_invalid_request_is_bad_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request_json: str, message: str
) -> None:
    monkeypatch.setenv(names.ENV_TERMINATION_LOG, str(tmp_path / "termination"))
    monkeypatch.setattr(sys, "argv", ["tuneyard-server", "engine", "--request", request_json])
    assert cli.main() == names.EXIT_BAD_INPUT
    termination = json.loads((tmp_path / "termination").read_text())
    assert termination["reason"] == "InvalidSpec"
    assert termination["message"] == f"The engine's request is not valid: {message}"


def test_termination_message_is_written_where_the_kubelet_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.delenv(names.ENV_TERMINATION_LOG, raising=False)
    monkeypatch.setattr(names, "TERMINATION_LOG", str(log))
    write_termination_message(b"no kubelet")
    assert not log.exists()
    log.touch()
    write_termination_message(b"crashed")
    assert log.read_bytes() == b"crashed"


def test_request_survives_the_command_line() -> None:
    request = engine_request(2, threads=4, maxModelLen=64, extraArgs={"quote": "a'b\"c"})
    options = cli.parser().parse_args(["engine", "--request", request.model_dump_json(by_alias=True)])
    received = EngineRequest.model_validate_json(options.request)
    assert received == request
    assert flags(engine_command(received, SOCKET))["--quote"] == "a'b\"c"


def test_operators_commands_are_accepted() -> None:
    cluster = Serving(vllm={"maxModelLen": 64}, resources={"gpus": 0, "limits": {"cpu": "4"}})
    cluster.reconcile()
    pod = cluster.deployment_of(OLD)["spec"]["template"]["spec"]
    commands = {container["name"]: container["command"] for container in (*pod["initContainers"], *pod["containers"])}
    options = {name: cli.parser().parse_args(command[1:]) for name, command in commands.items()}
    assert options["fetch"].digest == OLD
    assert load_engine(options["proxy"].engine).routes == ROUTES
    request = EngineRequest.model_validate_json(options["engine"].request)
    assert request.threads == 4
    assert flags(engine_command(request, SOCKET))["--max-model-len"] == "64"


FRONT = Front(ROUTES, "bot")


def test_only_listed_routes_have_a_location() -> None:
    text = render(FRONT, Path("/run/e.sock"), Path("/tmp/x"), ["a-key-of-mine"])
    found = {path for path in re.findall(r"location =? ?(\S+) ", text) if not path.startswith("/-/")}
    assert found == {route.path for route in ROUTES} | {"/v1/models/bot", "/v1/models/", "/", "/health", "/metrics"}
    assert "$request_uri" not in text, "a path as the client wrote it never reaches the engine"


def test_guarded_routes_check_the_key() -> None:
    guarded = len(ROUTES) + 2  # and what the proxy answers itself below /v1/models/
    assert render(FRONT, Path("/s"), Path("/t"), ["a-key-of-mine"]).count("$key_known = 0") == guarded
    assert render(FRONT, Path("/s"), Path("/t"), []).count("$key_known = 0") == 0


def test_punctuation_of_a_key_is_escaped() -> None:
    text = render(FRONT, Path("/s"), Path("/t"), ['a"; }\\.*$(b)'])
    (pattern,) = re.findall(r'"~\^\S+ \+(.*)\$" 1;', text)
    assert re.fullmatch(r"(\w|\\x[0-9a-f]{2})+", pattern)


@pytest.mark.parametrize("text", ["", "\n\n", "short", "with a space", "tab\tinside", "ümlaut-key"])
def test_unusable_keys_are_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(InvalidKeyError):
        read_keys(tmp_path / "key")


def test_several_keys_are_valid(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("first-key\nsecond-key\n")
    assert read_keys(tmp_path / "key") == ["first-key", "second-key"]


def test_no_key_without_a_mounted_secret(tmp_path: Path) -> None:
    assert mounted_keys(tmp_path / "absent" / "key") == []
    with pytest.raises(InvalidKeyError):
        mounted_keys(tmp_path / "key")


def test_cause_is_the_root_error() -> None:
    log = [
        "INFO starting",
        "(EngineCore pid=9) ValueError: max_model_len 9000 is larger than 2048",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    assert explain(log).message == "ValueError: max_model_len 9000 is larger than 2048"
    assert explain(["nothing"]).message == "no error in its log"
    assert explain([*log[:2], "", log[2]]) == explain(log)


def test_cause_of_an_engine_that_dies_while_it_serves() -> None:
    log = [
        "(EngineCore pid=9) torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found",
        "(APIServer pid=1) vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace",
        "(APIServer pid=1) EngineDeadError: EngineCore encountered an issue. See stack trace (above).",
    ]
    cause = explain(log)
    assert cause.message.endswith("InductorError: InvalidCxxCompiler: No working C++ compiler found")
    assert "no compiler" in cause.advice


def test_cause_of_four_bits_without_avx512() -> None:
    error = "RuntimeError: Worker failed with error ''_OpNamespace' '_C' object has no attribute 'cpu_gemm_wna16''"
    assert "without AVX-512: serve int8" in explain([f"(EngineCore pid=9) {error}, please check the stack"]).advice


def test_refused_request_is_no_cause() -> None:
    log = [
        "(EngineCore pid=9) RuntimeError: the device is gone",
        "(APIServer pid=7) ERROR [serving.py:500] vllm.exceptions.VLLMValidationError: Token id 9 is out of vocabulary",
        "(APIServer pid=7) ERROR [serving.py:500] EngineDeadError: EngineCore encountered an issue. See stack trace",
    ]
    assert explain(log).message == "RuntimeError: the device is gone"
    assert explain(log[1:2]).message == "no error in its log"


def test_cause_of_a_validation_error() -> None:
    log = [
        "pydantic_core.ValidationError: 1 validation error for ModelConfig\n",
        "  Value error, max_model_len (900000) is greater than 8192. [type=value_error, input_value=...]\n",
        "    For further information visit https://errors.pydantic.dev\n",
    ]
    cause = explain(log)
    assert cause.message == "pydantic_core.ValidationError: Value error, max_model_len (900000) is greater than 8192."
    assert cause.advice == "Lower vllm.maxModelLen."


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("unrecognized arguments: --no-such-flag=1", "unrecognized arguments: --no-such-flag=1"),
        ("argument --max-num-seqs: invalid int value: 'many'", "argument --max-num-seqs: invalid int value: 'many'"),
        (
            "argument --x: 1 validation error for X\nbackend\n  Input should be 'a' or 'b' [type=literal_error, input",
            "argument --x: 1 validation error for X backend Input should be 'a' or 'b'",
        ),
        (
            "argument --dtype: invalid choice: 'x' (choose from 'auto', 'half')",
            "argument --dtype: invalid choice: 'x'",
        ),
    ],
)
def test_cause_names_the_option(line: str, says: str) -> None:
    cause = explain(["usage: vllm serve [model_tag] [options]", *f"vllm serve: error: {line}".splitlines()])
    assert cause.message == f"vLLM does not accept an option: {says}"
    assert cause.reason == reasons.INVALID_SPEC


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "Lower vllm.maxModelLen or"),
        ("ValueError: To serve at least one request, 9 GiB KV cache is needed, which is larger", "cpuKVCacheGiB"),
    ],
)
def test_lack_of_memory_has_a_remedy(line: str, advice: str) -> None:
    cause = explain([line])
    assert cause.reason == reasons.OUT_OF_MEMORY
    assert advice in cause.advice


def test_vllm_finds_what_the_image_knows_of_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = tmp_path / "modelinfos"
    copy_model_infos(source)
    assert not (tmp_path / "home").exists()
    source.mkdir()
    (source / "llama.json").write_text("{}")
    copy_model_infos(source)
    copy_model_infos(source)  # a container that starts again in its pod
    assert (tmp_path / "home/.cache/vllm/modelinfos/llama.json").read_text() == "{}"
