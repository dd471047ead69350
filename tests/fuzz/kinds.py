"""What is fuzzed: for each kind of file some sound ones, the mutations that suit it, and what reads it.

A reader may raise an error with a reason, and nothing else.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from fuzz.mutate import Mutation, bytes_changed, json_changed, spliced
from fuzz.stores import manifest, manifests, reason_of, secret, secrets
from support.memorystore import MemoryStore
from support.models import URI
from support.tinymodel import TEMPLATE, write_model
from tuneyard_api import names, reasons
from tuneyard_api.contracts.requests import TokenizerOutcome, TokenizerRequest
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.commands.jobfile import read_job_yaml
from tuneyard_trainer.data.tokenize import tokenizer
from tuneyard_trainer.data.tokenize.tokenizer_worker import write_tokenizer
from tuneyard_trainer.exporters.adapter_config import read_adapter_config
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.stage_runner import Outcome
from tuneyard_trainer.stages import run_stage

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "finetune.yaml"
DATA: Final = "s3://data/rows.jsonl"
ENDS: Final = (names.EXIT_DONE, names.EXIT_BAD_INPUT)


class Kind(NamedTuple):
    """One kind of file."""

    seeds: Callable[[], Sequence[bytes]]
    mutations: Sequence[Mutation]
    read: Callable[[bytes], str]
    """Returns the reason with which it ended; raises for what must not happen."""


@cache
def model_files() -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as directory:
        made = write_model(Path(directory) / "tiny")
        files = {path.name: path.read_bytes() for path in made.iterdir()}
    return files | {"chat_template.jinja": TEMPLATE.encode()}


ROWS: Final = (
    b'{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, '
    b'{"role": "assistant", "content": "A"}]}\n'
    b'{"messages": [{"role": "user", "content": "Q2"}, {"role": "assistant", "content": "A2", "weight": 1}]}\n',
    b'{"instruction": "I", "input": "", "output": "O"}\n{"instruction": "J", "input": "K", "output": "P"}\n',
    b'{"prompt": "P", "completion": "C", "system": "S"}\n\n{"prompt": "R", "completion": "D"}\n',
    b'{"question": "Q?", "answer": "A.", "context": "C", "id": 7}\n{"question": "R?", "answer": "B."}\n',
)


# What was written for the sound model: most kinds of files change nothing in it.
_WRITTEN: Final[dict[tuple[tuple[str, bytes], ...], dict[str, bytes]]] = {}


def _sound() -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted(item for item in model_files().items() if not item[0].endswith(".safetensors")))


def write_here(context: StageContext, program: object, request: TokenizerRequest) -> TokenizerOutcome:
    """Loads the tokenizer in this process, by the same code: a process for each would take seconds."""
    key = tuple(sorted((path.name, path.read_bytes()) for path in request.model.iterdir()))
    if key not in _WRITTEN:
        write_tokenizer(request)
        if key == _sound():
            _WRITTEN[key] = {path.name: path.read_bytes() for path in request.output.iterdir()}
    for name, data in _WRITTEN.get(key, {}).items():
        (request.output / name).write_bytes(data)
    return TokenizerOutcome()


@contextmanager
def tokenizer_in_process() -> Iterator[None]:
    module: Any = tokenizer
    before = module.run_worker
    module.run_worker = write_here
    try:
        yield
    finally:
        module.run_worker = before


def outcome_of(files: Mapping[str, bytes], rows: bytes, **spec: Any) -> Outcome:
    """Runs the prepare stage on a model of these files, and on these rows."""
    store = MemoryStore()
    store.objects = {f"{URI}/{name}": data for name, data in files.items()} | {DATA: rows}
    given = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": URI},
            "dataset": {
                "train": [{"uri": DATA}],
                "clean": {"minRows": 1},
                "validation": {"fraction": 0.5},
            },
            "training": {"maxLength": 64},
            "export": {"formats": ["bf16", "gptq"]},
            "output": {"uri": "s3://out/put"},
        }
        | spec
    )
    with tempfile.TemporaryDirectory() as directory, tokenizer_in_process():
        context = StageContext(stage="prepare", name="fuzz", spec=given, store=store, work=Path(directory))
        return run_stage(context)


def prepare(files: Mapping[str, bytes], rows: bytes = ROWS[0], **spec: Any) -> str:
    """The reason with which prepare ends, which is no crash."""
    outcome = outcome_of(files, rows, **spec)
    if outcome.exit_code not in ENDS or outcome.reason == reasons.STAGE_CRASHED:
        raise AssertionError(f"{outcome.reason}: {outcome.message}")
    if outcome.exit_code == names.EXIT_BAD_INPUT and not (outcome.message and outcome.advice):
        raise AssertionError(f"{outcome.reason} without a message or without advice")
    f"{outcome.message} {outcome.advice}".encode()
    return outcome.reason


def in_model(name: str) -> Callable[[bytes], str]:
    """Reads a file of the model with prepare."""
    return lambda data: prepare({**model_files(), name: data})


def seeds_of(name: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [model_files()[name]]


JINJA: Final = (
    *("{{", "}}", "{%", "%}", "{#", "#}", "-", " | ", "messages", "[0]", "['role']", ".content", "loop.index0"),
    *(
        "{% for a in range(99999) %}",
        "{% endfor %}",
        "{% if ",
        "{% endif %}",
        "{% else %}",
        "{% set x = messages * 99 %}",
    ),
    *(
        " ** 99999999",
        " * 999999999",
        " ~ ",
        " + 1",
        " // 0",
        "|tojson",
        "|length",
        "|join",
        "|trim",
        "|map(attribute='x')",
    ),
    *(
        "|center(99999999)",
        "|indent(99999999)",
        "{{ 'a' * 9999999999 }}",
        "{{ raise_exception('no') }}",
        "tools|length",
    ),
    *(
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ strftime_now('%Y') }}",
        "{% generation %}",
        "none",
        "\x00",
    ),
    *("{% set ns = namespace(t='ab') %}", "{% set ns.t = ns.t ~ ns.t %}", "{{ '%9999999999d' % 1 }}", "''.__class__"),
    *(
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{% raw %}",
        "\\ud800",
        "'\\ud800'",
        "é",
        "{% break %}",
    ),
    *("{{ cycler('a').next() }}", "{{ lipsum(9999) }}", "{{ dict(a=1).items() }}", "{% call m() %}", "{{ self }}"),
    *(
        "{{ messages.append(1) }}",
        "{{ bos_token }}",
        "{{ undefined.x.y }}",
        "{{ messages|sort }}",
        "{{ (0)|round(9999) }}",
    ),
)


def adapter(data: bytes) -> str:
    """The configuration of an adapter that is merged."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "adapter_config.json").write_bytes(data)
        return reason_of(lambda: read_adapter_config(Path(directory), "s3://out/adapter"))


ADAPTER: Final = json.dumps(
    {
        "peft_type": "LORA",
        "r": 16,
        "lora_alpha": 32,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {},
        "alpha_pattern": {},
        "fan_in_fan_out": False,
        "base_model_name_or_path": "s3://models/tiny",
    }
).encode()


def header(data: bytes) -> str:
    """The header of the weights; the tensors behind it are as long as it says, where that is not much."""
    body = b""
    try:
        offsets = [entry["data_offsets"][1] for name, entry in json.loads(data).items() if name != "__metadata__"]
        body = bytes(min(max(offsets, default=0), 2**20))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError):
        body = bytes(64)
    return prepare({**model_files(), "model.safetensors": len(data).to_bytes(8, "little") + data + body})


def headers() -> Sequence[bytes]:
    weights = model_files()["model.safetensors"]
    length = int.from_bytes(weights[:8], "little")
    return [weights[8 : 8 + length]]


def job(data: bytes) -> str:
    """A file for `tuneyard run`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "job.yaml"
        path.write_bytes(data)
        return reason_of(lambda: read_job_yaml(path))


YAML: Final = (
    *(
        "\n  ",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!!binary ",
        "!!python/none",
        "2001-99-99",
        "? ",
        "|\n",
        "~",
    ),
    *(
        "%YAML 9",
        "---\n",
        "\t",
        "'",
        '"',
        "#",
        "\x00",
        "\ufeff",
        "\\ud800",
        "1e999",
        ".nan",
        "<<: ",
        "0x",
        "spec:",
        "null",
    ),
)

KINDS: Final[dict[str, Kind]] = {
    "rows": Kind(
        lambda: ROWS,
        (bytes_changed, spliced(('"messages"', '"role"', "null", "{}", "[]", "\\ud800"))),
        lambda data: prepare(model_files(), data),
    ),
    "config": Kind(seeds_of("config.json"), (json_changed, json_changed, bytes_changed), in_model("config.json")),
    "tokenizer": Kind(
        seeds_of("tokenizer.json"), (json_changed, json_changed, bytes_changed), in_model("tokenizer.json")
    ),
    "tokenizer-config": Kind(
        seeds_of("tokenizer_config.json"), (json_changed, bytes_changed), in_model("tokenizer_config.json")
    ),
    "template": Kind(
        seeds_of("chat_template.jinja"),
        (spliced(JINJA), spliced(JINJA), bytes_changed),
        in_model("chat_template.jinja"),
    ),
    "job": Kind(lambda: [EXAMPLE.read_bytes()], (spliced(YAML), bytes_changed), job),
    "adapter": Kind(lambda: [ADAPTER], (json_changed, bytes_changed), adapter),
    "header": Kind(headers, (json_changed, json_changed, bytes_changed), header),
    "manifest": Kind(manifests, (json_changed, bytes_changed), manifest),
    "secret": Kind(
        secrets, (bytes_changed, spliced(("\n", "\r\n", "https://", "[::1", "%zz", "é", "\x00", " ", "=", "@"))), secret
    ),
}
