"""GGUF with llama.cpp's own programs: made, measured, and loaded as its quick start says."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from gguf import GGUFReader

from integration.conftest import END_OF_TURN, VOCABULARY, ContextFactory, free_port, wait_for
from tuneyard_api import names
from tuneyard_api.contracts.requests import GgufOutcome, GgufRequest, ScoreRequest
from tuneyard_api.contracts.results import EvaluateResult, ExportResult
from tuneyard_api.kinds.llamacpp_options import OPTIONS
from tuneyard_store.artifact import fetch_directory
from tuneyard_trainer.exporters.llamacpp_worker import chunk_size, convert, end_options, export, matrices
from tuneyard_trainer.metrics.llamacpp_binding import loaded
from tuneyard_trainer.metrics.llamacpp_worker import score as score_gguf
from tuneyard_trainer.metrics.score_worker import score as score_transformers
from tuneyard_trainer.stages import run_stage

FORMATS = ["gguf-q4_k_m", "gguf-q8_0"]


@pytest.fixture(scope="module")
def home() -> Path:
    return Path(os.environ[names.ENV_LLAMACPP])


@pytest.fixture
def exported(new_context: ContextFactory) -> ExportResult:
    assert run_stage(new_context("train")).succeeded
    outcome = run_stage(new_context("export", export={"formats": FORMATS}))
    assert isinstance(outcome.result, ExportResult), outcome
    return outcome.result


def test_the_chain(new_context: ContextFactory, exported: ExportResult, tmp_path: Path) -> None:
    context = new_context("evaluate", export={"formats": FORMATS})
    sizes = {}
    for artifact in exported.artifacts:
        manifest = fetch_directory(context.store, artifact.uri, tmp_path / artifact.format, artifact.digest)
        (file,) = manifest.files
        sizes[artifact.format] = file.size_bytes
        assert file.path == f"tiny-{artifact.format.removeprefix('gguf-').upper()}.gguf"
    assert sizes["gguf-q4_k_m"] < sizes["gguf-q8_0"]
    small, large = exported.artifacts
    assert "do not divide by 256" in small.notes[0]
    assert small.fidelity is not None
    assert large.fidelity is not None
    assert 0 < large.fidelity.kl < small.fidelity.kl

    outcome = run_stage(context)
    assert isinstance(outcome.result, EvaluateResult), outcome
    perplexity = {item.subject: item.value for item in outcome.result.measurements if item.metric == "perplexity"}
    assert perplexity["gguf-q8_0"] == pytest.approx(perplexity["tuned"], rel=0.02)
    assert perplexity["gguf-q4_k_m"] == pytest.approx(perplexity["tuned"], rel=0.2)
    levels = {level.subject: level for level in outcome.result.levels}
    four, eight = levels["gguf-q4_k_m"], levels["gguf-q8_0"]
    assert (four.engine, levels["tuned"].engine[:12]) == ("llama.cpp", "transformers")
    assert 0 < (eight.kl or 0) < (four.kl or 0) < 0.5
    assert 0 < (four.memory_bytes or 0) < (eight.memory_bytes or 0) < eight.size_bytes
    for level in (four, levels["tuned"]):
        assert 0 < (level.seconds_to_first_token or 0) < 32 / (level.tokens_per_second or 0)
        assert (level.tokens_per_second_together or 0) > 0


def request(model: Path, folder: Path, rows: list[list[int]] | None, quantization: str = "Q8_0") -> GgufRequest:
    """Into new folders."""
    (folder / "shared").mkdir(parents=True)
    row_file = folder / "rows.json" if rows is not None else None
    if row_file:
        row_file.write_text(json.dumps(rows))
    return GgufRequest(
        model=model,
        name="tiny",
        quantization=quantization,
        rows=row_file,
        shared=folder / "shared",
        output=folder / "tiny.gguf",
        threads=2,
    )


def test_figures_can_be_compared_with_those_of_transformers(model: Path, tmp_path: Path) -> None:
    """The same weights in full precision have the same loss, whichever program measures it."""
    wanted = request(model, tmp_path, None)
    convert(wanted)
    rows = [([3, 40, 41, 42, 43, 44], [-100, -100, 41, 42, 43, 44]), ([5, 60, 61, 62], [-100, 60, -100, 62])]
    row_file = tmp_path / "held-out.json"
    row_file.write_text(json.dumps(rows))
    ours = score_gguf(ScoreRequest(models={"x": wanted.shared}, rows=row_file)).scores["x"]
    theirs = score_transformers(ScoreRequest(models={"x": model}, rows=row_file)).scores["x"]
    assert ours.tokens == theirs.tokens == 6
    assert ours.nll == pytest.approx(theirs.nll, rel=0.005)


def test_logits_are_compared_with_those_of_transformers(model: Path, tmp_path: Path) -> None:
    """The same weights in full precision predict the same, so that what a quantized file differs by is its own."""
    wanted = request(model, tmp_path, None)
    convert(wanted)
    (tmp_path / "held-out.json").write_text(json.dumps([([3, 40, 41, 42], [-100, 40, 41, 42])] * 2))
    asked = ScoreRequest(
        models={"tuned": model},
        rows=tmp_path / "held-out.json",
        end_tokens=[42],
        reference="tuned",
        compared=[1],
        logits=tmp_path / "logits",
    )
    theirs = score_transformers(asked).scores["tuned"]
    ours = score_gguf(asked.model_copy(update={"models": {"x": wanted.shared}})).scores["x"]
    assert theirs.kl is None
    assert ours.kl == pytest.approx(0, abs=1e-3)
    assert ours.end_probability == pytest.approx(theirs.end_probability, rel=0.05)


def test_answers_are_those_of_transformers(model: Path, tmp_path: Path) -> None:
    """Of prompts of several lengths at once, too; an answer ends before the token that ends it."""
    wanted = request(model, tmp_path, None)
    convert(wanted)
    (tmp_path / "held-out.json").write_text(json.dumps([([3, 40, 41, 42], [-100, 40, 41, 42])]))
    asked = ScoreRequest(
        models={"x": model}, rows=tmp_path / "held-out.json", prompts=[[3, 40, 41], [5, 60, 61, 62, 63, 64]]
    )
    at_once = score_transformers(asked).scores["x"].answers
    alone = [
        score_transformers(asked.model_copy(update={"prompts": [prompt]})).scores["x"].answers[0]
        for prompt in asked.prompts
    ]
    of_gguf = score_gguf(asked.model_copy(update={"models": {"x": wanted.shared}})).scores["x"].answers
    assert all(map(len, at_once))
    # bfloat16 rounds differently in a batch: what follows may differ, how answers begin does not.
    begins = [answer[:4] for answer in at_once]
    assert begins == [answer[:4] for answer in alone] == [answer[:4] for answer in of_gguf]
    ended = asked.model_copy(update={"end_tokens": [at_once[0][2]]})
    shorter = at_once[0][: at_once[0].index(at_once[0][2])]
    assert score_transformers(ended).scores["x"].answers[0] == shorter
    assert score_gguf(ended.model_copy(update={"models": {"x": wanted.shared}})).scores["x"].answers[0] == shorter


def test_generates_as_its_logits_say(model: Path, tmp_path: Path) -> None:
    wanted = request(model, tmp_path, None)
    convert(wanted)
    with loaded(next(wanted.shared.glob("*.gguf")), 64, 2) as gguf:
        (tokens,) = gguf.generate([[3, 40, 41]], 8)
        ((_, logits),) = gguf.logits([3, 40, 41, *tokens], list(range(2, 10)))
        assert logits.argmax(axis=1).tolist() == tokens


def test_several_requests_at_once_are_answered_as_each_alone(model: Path, tmp_path: Path) -> None:
    wanted = request(model, tmp_path, None)
    convert(wanted)
    prompts = [[3, 40, 41], [7, 80], [9, 100, 101, 102, 103, 104]]
    with loaded(next(wanted.shared.glob("*.gguf")), 64, 2, batch_tokens=4, sequences=3) as gguf:
        alone = [gguf.generate([prompt], 6)[0] for prompt in prompts]
        assert gguf.generate(prompts, 6) == alone
    assert [len(answer) for answer in alone] == [6, 6, 6]
    assert len(set(map(tuple, alone))) == 3, "each has its own answer"


@pytest.mark.parametrize("stops", [[1, 77], [77, 1], 77])
def test_llamacpp_stops_where_a_turn_was_trained_to_end(model: Path, tmp_path: Path, stops: list[int] | int) -> None:
    """Whatever the text of the token: 77 is an ordinary one, and the file's eos is <|im_end|>."""
    tuned = shutil.copytree(model, tmp_path / "tuned")
    (tuned / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    export(request(tuned, tmp_path, None))
    assert {77, END_OF_TURN} <= ends_of(tmp_path / "tiny.gguf")
    assert 78 not in ends_of(tmp_path / "tiny.gguf")
    convert(request(tuned, tmp_path / "as llama.cpp converts it", None))
    assert 77 not in ends_of(tmp_path / "as llama.cpp converts it" / "shared" / "model-bf16.gguf")


def ends_of(file: Path) -> set[int]:
    """The tokens at which llama.cpp stops."""
    with loaded(file, 64, 2) as gguf:
        api = gguf._api
        vocabulary = api.llama_model_get_vocab(gguf._model)
        return {number for number in range(VOCABULARY) if api.llama_vocab_is_eog(vocabulary, number)}


@pytest.mark.parametrize(
    ("stops", "named", "expected"),
    [
        ([7], {"eos": 7}, []),
        ([0, 7], {"eos": 0}, ["eot=int:7"]),
        ([0, 5, 7], {"eos": 0, "bos": 7}, ["eot=int:7", "eom=int:5"]),
        ([0, 7], {"eos": 0, "eot": 3}, ["eom=int:7"]),
        ([7], {}, ["eos=int:7"]),
        ([0, 4, 5, 7], {"eos": 0}, ["eot=int:7", "eom=int:5"]),
        ([], {"eos": 0}, []),
    ],
)
def test_ends_that_a_file_does_not_name(stops: list[int], named: dict[str, int], expected: list[str]) -> None:
    fields: Any = {
        f"tokenizer.ggml.{name}_token_id": Mock(contents=lambda token=token: token) for name, token in named.items()
    }
    options = end_options(stops, fields)
    assert options[::2] == ["--override-kv"] * len(expected)
    assert [option.removeprefix("tokenizer.ggml.").replace("_token_id", "") for option in options[1::2]] == expected


def test_importance_of_the_rows_is_in_the_file(model: Path, tmp_path: Path) -> None:
    rows = [[number % 200 + 10 for number in range(start, start + 50)] for start in range(20)]
    outcome = export(request(model, tmp_path, rows, "Q5_K_M"))
    fields = GGUFReader(tmp_path / "tiny.gguf").fields
    assert fields["quantize.imatrix.file"].contents() == "imatrix.gguf", "a file's name, without this machine's path"
    assert fields["quantize.imatrix.dataset"].contents() == "calibration.txt"
    assert fields["general.name"].contents() == "tiny"
    assert outcome == GgufOutcome(
        tensors=outcome.tensors,
        fallbacks=outcome.tensors,
        split_otherwise=0,
        rows=20,
        fidelity=outcome.fidelity,
    )
    assert outcome.fidelity is not None
    assert 0 < outcome.fidelity.logits_error < 0.1
    assert outcome.tensors == 15, "embedding, and seven matrices in each of two layers"
    types = {tensor.tensor_type.name for tensor in matrices(tmp_path / "tiny.gguf")}
    assert types == {"Q8_0"}, "not Q5_1, which llama.cpp takes for rows that do not divide by 256"


def test_few_rows_give_no_importance(model: Path, tmp_path: Path) -> None:
    assert chunk_size(39) is None
    assert chunk_size(5000) == 512
    export(request(model, tmp_path, [[20, 21, 22]], "Q5_K_M"))
    assert "quantize.imatrix.file" not in GGUFReader(tmp_path / "tiny.gguf").fields


def test_options_are_those_of_the_program(home: Path) -> None:
    """What spec.llamacpp.extraArgs may have."""
    text = subprocess.run([home / "bin" / "llama-server", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"--([a-z0-9-]+)", text))
    assert known >= OPTIONS, sorted(OPTIONS - known)


def test_plain_llama_server_loads_the_file(home: Path, model: Path, tmp_path: Path) -> None:
    """llama-server -m FILE, and nothing else that tuneyard knows."""
    export(request(model, tmp_path, None))
    port = free_port()
    command = [str(home / "bin" / "llama-server"), "-m", str(tmp_path / "tiny.gguf"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(port)
            url = f"http://127.0.0.1:{port}"
            end = time.monotonic() + 30
            while httpx.get(f"{url}/health").status_code != 200:
                assert time.monotonic() < end, "the model is not loaded"
                time.sleep(0.2)
            body = {"prompt": "abc", "max_tokens": 4, "ignore_eos": True}  # random weights may end at once
            answer = httpx.post(f"{url}/v1/completions", json=body, timeout=30)
            assert answer.json()["usage"]["completion_tokens"] == 4
        finally:
            server.terminate()
