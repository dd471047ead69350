"""Requests with every documented option of the chat and completion routes: good values, bad ones, and the limits.

OpenAI's options are those of its client; tests/unit/test_engine_options.py compares. vLLM's are those of
https://docs.vllm.ai/en/stable/serving/openai_compatible_server/
"""

import random
from collections.abc import Iterator
from typing import Any, Final

Json = dict[str, Any]
Values = tuple[Any, ...]

MODEL: Final = "bot"
SAMPLED_TOKENS: Final = 4  # so that thousands of requests take minutes

SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}
RECURSIVE: Final[Json] = {
    "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}},
    "$ref": "#/$defs/n",
}
WEATHER: Final[Json] = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
PICTURE: Final = "data:image/png;base64,iVBORw0KGgo="


def _format(schema: Any, **more: Any) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


# Of both routes, OpenAI's.
COMMON: Final[dict[str, Values]] = {
    "frequency_penalty": (0, 2, -2, 3, "x"),
    "presence_penalty": (0, 2, -2, -3),
    "logit_bias": ({}, {"5": 100}, {"5": -100, "6": 3.5}, {"999999": 1}, {"x": 1}, {"5": 1000}),
    "max_tokens": (1, 3, 0, -1, 10**9),
    "n": (1, 2, 8, 0, -1),
    "seed": (0, 1, -1, 2**63 - 1, 2**64),
    "stop": ("a", ["a", "b"], [], "", ["\n"] * 5, None),
    "stream": (True, False),
    "stream_options": ({"include_usage": True}, {"include_obfuscation": True}, {}, "x"),
    "temperature": (0, 0.7, 2, 1e-6, -1, 100),
    "top_p": (1, 0.1, 1e-9, 0, 1.5),
    "user": ("u", "", "x" * 1000),
}
CHAT: Final[dict[str, Values]] = COMMON | {
    "audio": ({"voice": "alloy", "format": "wav"}, None),
    "function_call": ("none", "auto", {"name": "get_weather"}),
    "functions": ([WEATHER["function"]], []),
    "logprobs": (True, False, 3),
    "max_completion_tokens": (1, 4, 0, 10**9),
    "metadata": ({"a": "b"}, {}),
    "modalities": (["text"], ["text", "audio"]),
    "moderation": ({"model": "omni-moderation-latest"}, None),
    "parallel_tool_calls": (True, False),
    "prediction": ({"type": "content", "content": "hello"}, None),
    "prompt_cache_key": ("k", ""),
    "prompt_cache_options": ({}, None),
    "prompt_cache_retention": ("24h", "in-memory"),
    "reasoning_effort": ("low", "high", "none", "much"),
    "response_format": (
        {"type": "text"},
        {"type": "json_object"},
        _format(SCHEMA),
        _format(SCHEMA, strict=True),
        _format(RECURSIVE),
        _format({"type": "string", "pattern": "^(a+)+$"}),
        _format({"type": "nonsense"}),
        _format({}),
        _format("x"),
        {"type": "json_schema"},
        {"type": "unknown"},
    ),
    "safety_identifier": ("s",),
    "service_tier": ("auto", "flex"),
    "store": (True, False),
    "tool_choice": (
        "none",
        "auto",
        "required",
        {"type": "function", "function": {"name": "get_weather"}},
        {"type": "function", "function": {"name": "absent"}},
        "unknown",
    ),
    "tools": (
        [WEATHER],
        [],
        [WEATHER, WEATHER],
        [{"type": "function", "function": {"name": "f"}}],
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}],
        [{"type": "web_search"}],
    ),
    "top_logprobs": (0, 1, 5, 20, 21, -1),
    "verbosity": ("low", "high"),
    "web_search_options": ({}, None),
}
COMPLETION: Final[dict[str, Values]] = COMMON | {
    "best_of": (1, 2, 0),
    "echo": (True, False),
    "logprobs": (0, 1, 5, 20, 21, -1),
    "suffix": ("end", ""),
}
# vLLM's own, of both routes.
VLLM: Final[dict[str, Values]] = {
    "add_special_tokens": (True, False),
    "allowed_token_ids": ([1, 2, 3], [], [10**6], [-1]),
    "bad_words": (["a"], [""], ["no such word"]),
    "cache_salt": ("salt", ""),
    "ignore_eos": (True, False),
    "include_stop_str_in_output": (True,),
    "length_penalty": (1.0, 0.0, -1.0),
    "logits_processors": (["os.system"], []),
    "min_p": (0.0, 0.5, 1.0, 2.0),
    "min_tokens": (0, 2, 100, -1),
    "priority": (0, 5),
    "prompt_logprobs": (0, 1, 20, -1),
    "repetition_penalty": (1.0, 1.3, 0.0, 1e9, -1),
    "request_id": ("r", ""),
    "return_token_ids": (True,),
    "return_tokens_as_token_ids": (True,),
    "skip_special_tokens": (True, False),
    "spaces_between_special_tokens": (False,),
    "stop_token_ids": ([1], [], [10**6], [-1]),
    "structured_outputs": (
        {"choice": ["a", "b"]},
        {"choice": []},
        {"regex": "[a-z]{1,3}"},
        {"regex": "("},
        {"grammar": 'root ::= "a" | "b"'},
        {"grammar": "::="},
        {"json": SCHEMA},
        {"json": "{"},
        {"json_object": True},
        {"choice": ["a"], "regex": "b"},
        {"structural_tag": "{}"},
    ),
    "top_k": (0, 1, 50, -1, 10**6),
    "truncate_prompt_tokens": (1, 3, -1, 0, 10**6),
    "use_beam_search": (True,),
    "vllm_xargs": ({"a": 1}, {}),
    "kv_transfer_params": ({"do_remote_decode": True}, {}),
}
VLLM_CHAT: Final[dict[str, Values]] = VLLM | {
    "add_generation_prompt": (True, False),
    "chat_template": ("{{ messages }}", "{{ bad", ""),
    "chat_template_kwargs": ({"enable_thinking": False}, {"tools": 3}),
    "continue_final_message": (True,),
    "documents": ([{"title": "t", "text": "x"}], []),
    "echo": (True,),
    "include_reasoning": (True, False),
    "mm_processor_kwargs": ({"x": 1},),
}
MESSAGES: Final[Values] = (
    [{"role": "user", "content": "hello"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
    [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}],
    [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "tool_call_id": "x", "content": "1"}],
    [{"role": "user", "content": "\ud83d\ude00 \u0000 <|im_end|> <|im_start|>"}],
    [{"role": "user", "content": "x" * 5000}],
    [{"role": "wizard", "content": "hello"}],
    [],
)
PROMPTS: Final[Values] = ("hello", ["a", "b"], [1, 2, 3], [[1], [2, 3]], "", [], [10**6], [-1], "x" * 5000, None)


class Route:
    """A route with the options that it takes."""

    def __init__(
        self, path: str, key: str, inputs: Values, options: dict[str, Values], more: dict[str, Values]
    ) -> None:
        self.path, self.key, self.inputs, self.options, self.more = path, key, inputs, options, more

    def request(self, options: Json) -> Json:
        return {"model": MODEL, "max_tokens": SAMPLED_TOKENS, self.key: self.inputs[0], **options}

    def alone(self) -> Iterator[Json]:
        """A request for each value of each option, and for each input."""
        for name, values in (self.options | self.more).items():
            yield from (self.request({name: value}) for value in values)
        yield from (self.request({self.key: value}) for value in self.inputs)

    def mix(self, dice: random.Random) -> Json:
        """A request with a few options; most mixes have values that are accepted on their own."""
        chosen = dice.sample([*self.options], dice.randint(1, 6)) + dice.sample([*self.more], dice.choice((0, 0, 1, 2)))
        options = {name: self._value((self.options | self.more)[name], dice) for name in chosen}
        if dice.random() < 0.2:
            options[self.key] = dice.choice(self.inputs)
        return self.request(options)

    @staticmethod
    def _value(values: Values, dice: random.Random) -> Any:
        """The first values are the ordinary ones."""
        return values[min(int(dice.expovariate(0.9)), len(values) - 1)]


ROUTES: Final = (
    Route("/v1/chat/completions", "messages", MESSAGES, CHAT, VLLM_CHAT),
    Route("/v1/completions", "prompt", PROMPTS, COMPLETION, VLLM),
)


def alone() -> Iterator[tuple[str, Json]]:
    """(path, body) of all requests with one option."""
    for route in ROUTES:
        yield from ((route.path, body) for body in route.alone())


def mixes(count: int, seed: int) -> Iterator[tuple[str, Json]]:
    """(path, body) of requests with random options; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - not a secret
    for _ in range(count):
        route = dice.choice(ROUTES)
        yield route.path, route.mix(dice)
