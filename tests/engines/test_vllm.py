"""vLLM as a ModelServer starts it: no request ends it, and the options of spec.vllm do what they say."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall

from engines.conftest import Engine, Start
from engines.options import MODEL, WEATHER, Json, alone, mixes
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_server.engines import options_check
from tuneyard_server.engines.vllm.model_infos import copy_model_infos

REPEATING = "one two three one two three one two three one two"
SEED = 20


@pytest.fixture(scope="module")
def engine(start: Start) -> Engine:
    return start(toolCallParser="hermes", maxNumSeqs=16)


@pytest.fixture(scope="module")
def client(engine: Engine) -> OpenAI:
    http = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(engine.socket)), timeout=120)
    return OpenAI(base_url="http://engine/v1", api_key="none", http_client=http, max_retries=0)


def has_no_answer(body: Json) -> bool:
    """Whether it asks for a format and allows only tokens that may not give it: vLLM answers with an internal error."""
    return "allowed_token_ids" in body and bool({"response_format", "structured_outputs", "tools"} & body.keys())


def send(engine: Engine, requests: Iterable[tuple[str, Json]]) -> Counter[int]:
    """Sends requests, eight at a time; counts the statuses. Raises where an answer is not the engine's own."""

    def answer(request: tuple[str, Json]) -> int:
        path, body = request
        try:
            response = engine.client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        except httpx.TransportError as error:
            raise AssertionError(f"{error!r} after {body}\n{engine.log()[-3000:]}") from error
        is_answer = response.status_code < 500 or response.status_code == 501 or has_no_answer(body)
        assert is_answer, f"{response.text} after {body}"
        return response.status_code

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(answer, requests))


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM"])
def test_a_start_imports_no_architecture_twice(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = import_module("vllm.model_executor.models.registry")

    def import_in_a_process(inspect: object) -> None:
        raise AssertionError(f"the image has nothing about {architecture}")

    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    monkeypatch.setattr(registry, "_run_in_subprocess", import_in_a_process)
    copy_model_infos()
    assert registry.ModelRegistry.models[architecture].inspect_model_cls().architecture == architecture


def test_no_option_ends_the_engine(engine: Engine) -> None:
    before = engine.processes()
    statuses = send(engine, alone())
    assert engine.processes() == before
    assert statuses[200] > 150, statuses
    assert statuses[400] > 50, statuses
    assert sum(send(engine, mixes(200, SEED)).values()) == 200
    assert engine.processes() == before


@pytest.mark.slow
def test_no_mix_of_options_ends_the_engine(engine: Engine) -> None:
    before = engine.processes()
    statuses = send(engine, mixes(2000, SEED + 1))
    print(statuses)
    assert statuses.total() == 2000
    assert statuses[200] > 600, "most of the others are refused before they reach the engine"
    assert engine.processes() == before


def chat(client: OpenAI, **options: Any) -> ChatCompletion:
    messages: Any = [{"role": "user", "content": "What is the weather?"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, **options)
    assert isinstance(answer, ChatCompletion)
    return answer


def test_log_probabilities_need_no_compiler(client: OpenAI) -> None:
    (choice,) = chat(client, max_tokens=2, logprobs=True, top_logprobs=3).choices
    assert choice.logprobs
    assert choice.logprobs.content
    assert len(choice.logprobs.content[0].top_logprobs) == 3


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tools_are_called(client: OpenAI, choice: Any) -> None:
    answer = chat(client, tools=[WEATHER], tool_choice=choice, max_tokens=200)
    calls = answer.choices[0].message.tool_calls
    assert calls
    call = calls[0]
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "get_weather"


def test_model_may_choose_to_call_a_tool(client: OpenAI) -> None:
    """It has random weights, so it does not; without a parser vLLM refuses the request."""
    usage = chat(client, tools=[WEATHER], tool_choice="auto", max_tokens=4).usage
    assert usage
    assert usage.completion_tokens > 0


def test_responses_and_tokens(client: OpenAI, engine: Engine) -> None:
    assert client.responses.create(model=MODEL, input="hi", max_output_tokens=4).output
    tokens = engine.client.post("/tokenize", json={"model": MODEL, "prompt": "hi"}).json()["tokens"]
    text = engine.client.post("/detokenize", json={"model": MODEL, "tokens": tokens}).json()["prompt"]
    assert text.endswith("hi")


def greedy(engine: Engine) -> tuple[str, float]:
    """An answer at temperature 0, and how long it took."""
    began = time.monotonic()
    body = {"model": MODEL, "prompt": REPEATING, "max_tokens": 200, "temperature": 0, "ignore_eos": True}
    answer = engine.client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"], time.monotonic() - began


def test_speculative_decoding_gives_the_same_tokens(engine: Engine, start: Start) -> None:
    speculating = start(speculative={"method": "ngram", "tokens": 3})
    greedy(speculating)  # numba compiles its function once
    assert greedy(speculating)[0] == greedy(engine)[0]
    drafted = speculating.metric("vllm:spec_decode_num_draft_tokens_total")
    accepted = speculating.metric("vllm:spec_decode_num_accepted_tokens_total")
    assert 0 < accepted <= drafted


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"extraArgs": {"no-such-flag": "1"}}, "unrecognized arguments: --no-such-flag=1"),
        (
            {"extraArgs": {"max-sequences": "4"}},
            "--max-sequences=4. Did you mean --max-num-seqs?",
        ),
        ({"extraArgs": {"max-num-batched-tokens": "many"}}, "argument --max-num-batched-tokens"),
        ({"kvCacheDtype": "fp7"}, "argument --kv-cache-dtype: invalid choice: 'fp7'"),
        ({"toolCallParser": "absent"}, "invalid tool call parser: absent"),
        ({"reasoningParser": "absent"}, "argument --reasoning-parser: invalid choice: 'absent'"),
        ({"attentionBackend": "absent"}, "argument --attention-backend: invalid choice: 'absent'"),
        ({"quantization": "absent"}, "argument --quantization: invalid choice: 'absent'"),
        ({"toolCallParser": "hermes", "attentionBackend": "FLASH_ATTN", "kvCacheDtype": "fp8"}, None),
    ],
)
def test_wrong_options_are_found_before_the_engine_starts(options: Json, says: str | None) -> None:
    cause = options_check(EngineRequest(engine="vllm", model=Path("/m"), served_name="x", options=options))()
    assert (cause is None) if says is None else (cause is not None and says in cause.message)
