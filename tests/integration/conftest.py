"""Fixtures for the ML stages: a tiny Llama with random weights, tokenized rows, and a real S3 server.

These tests need the trainer image's environments; tests/integration/run starts them in it.
"""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from socket import create_connection, socket
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from support.tinymodel import TEMPLATE, TURN_END, TURN_START, byte_tokenizer
from tuneyard_api.contracts.results import STAGE_MARK, ArtifactRef, DatasetSummary, PrepareResult
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.stages import stage_digests
from tuneyard_store.artifact import publish_directory
from tuneyard_store.credentials import Credentials
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, TokenizedRow
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.runtime.context import StageContext

VOCABULARY = 320
MODEL_URI = "s3://bucket/model"
END_OF_TURN = byte_tokenizer().token_to_id(TURN_END)

ContextFactory = Callable[..., StageContext]

# The longest files come first, so that the processes of pytest-xdist end together.
FIRST = [
    *("test_stages.py", "test_formats.py", "test_nodes.py", "test_memory_limit.py", "test_memory.py"),
    *("test_stage_faults.py", "test_llamacpp.py", "test_gpu_programs.py", "test_resume.py", "test_events.py"),
    *("test_streaming.py", "test_methods.py", "test_objectives.py"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(FIRST, -len(FIRST))}
    items.sort(key=lambda item: order.get(item.path.name, 0))


def pytest_configure(config: pytest.Config) -> None:
    """These tests run without pyproject.toml, which declares the markers."""
    config.addinivalue_line("markers", "lifecycle(*rows): shows these rows of docs/lifecycle.md")
    config.addinivalue_line("markers", "slow: takes more than a minute")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model with two layers, tied embeddings and several shards."""
    directory = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory, max_shard_size="60KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    (directory / "tokenizer.json").write_text(tokenizer_for_llamacpp())
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": TURN_START, "eos_token": TURN_END}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return directory


def tokenizer_for_llamacpp() -> str:
    """The byte tokenizer with splits that llama.cpp knows, and with the one merge that it asks for."""
    tokenizer = byte_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    document = json.loads(tokenizer.to_str())
    document["model"]["vocab"]["!!"] = tokenizer.get_vocab_size()
    document["model"]["merges"] = [["!", "!"]]
    return json.dumps(document)


def token_rows(count: int, seed: int) -> list[TokenizedRow]:
    """Random rows of only 20 tokens of the vocabulary, which even a tiny adapter learns."""
    chance = random.Random(seed)  # noqa: S311
    rows = []
    for _ in range(count):
        ids = [chance.randrange(10, 30) for _ in range(chance.randrange(6, 24))]
        rows.append({INPUT_IDS: ids, LABELS: [IGNORED] * 3 + ids[3:]})
    return rows


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of tokenized rows, as prepare writes it, with `train` and `validation`."""
    directory = tmp_path_factory.mktemp("rows")
    for split, count, seed in (("train", 40, 1), ("validation", 12, 2)):
        writer = ShardWriter(directory / split)
        for row in token_rows(count, seed):
            writer.add(row)
        writer.finish()
    return directory


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[S3Store]:
    """The client of a versitygw server that has the model."""
    folder = tmp_path_factory.mktemp("s3")
    shutil.copytree(model, folder / "data" / "bucket" / "model")
    (folder / "sidecar").mkdir()
    port = free_port()
    access = ["--access", "integration-key", "--secret", "integration-secret"]
    place = ["posix", "--sidecar", str(folder / "sidecar"), str(folder / "data")]
    command = [os.environ["TUNEYARD_S3_BINARY"], "--quiet", "--port", f"127.0.0.1:{port}", *access, *place]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        endpoint = f"http://127.0.0.1:{port}"
        yield S3Store(Credentials("integration-key", "integration-secret", None, endpoint, addressing_style="path"))
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, "the S3 server does not listen"
            time.sleep(0.1)
        else:
            return


def job_spec(**changes: Any) -> FineTuneJobSpec:
    """The spec of a FineTuneJob on the tiny model; `changes` are merged into its fields."""
    spec: dict[str, Any] = {
        "model": {"uri": MODEL_URI},
        "dataset": {"train": [{"uri": "s3://bucket/data.jsonl"}]},
        "training": {
            "maxSteps": 12,
            "effectiveBatchSize": 4,
            "microBatchSize": 2,
            "learningRate": 1e-2,
            "maxLength": 64,
            "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
        },
        "export": {"formats": ["bf16", "int8", "gptq"], "calibration": {"samples": 8, "maxLength": 32}},
        "output": {"uri": "s3://bucket/output"},
        "resources": {"gpus": 0},
    }
    for name, part in changes.items():
        spec[name] = {**spec.get(name, {}), **part}
    return FineTuneJobSpec.model_validate(spec)


def commit_prepare(context: StageContext, rows: Path, model: Path) -> None:
    """What prepare leaves for the later stages."""
    for path in rows.rglob("*.npy"):
        context.store.upload(path, context.uri("prepare", path.parent.name, path.name))
    tokenizer = context.work / "tokenizer-of-prepare"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, tokenizer / name)
    (tokenizer / "chat_template.jinja").write_text(TEMPLATE)
    uri = context.uri("prepare", "tokenizer")
    published = ArtifactRef(uri=uri, digest=publish_directory(context.store, tokenizer, uri, "tokenizer").digest)
    summary = DatasetSummary(rows_in=52, rows_kept=52, tokens=1000, digest="sha256:" + "0" * 64)
    context.commit(PrepareResult(dataset=summary, tokenizer=published, end_of_turn=[END_OF_TURN], total_steps=12))


@pytest.fixture
def new_context(store: S3Store, model: Path, rows: Path, tmp_path: Path) -> ContextFactory:
    """A function that creates the context of a stage; the store has prepare's rows, and equal specs share a run."""

    def make(stage: Any, **changes: Any) -> StageContext:
        spec = job_spec(**changes)
        work = tmp_path / f"{stage}-{len(list(tmp_path.iterdir()))}"
        work.mkdir()
        context = StageContext(stage, "tiny", spec, store, work, stage_digests(spec, {}), threads=2)
        if not store.exists(context.uri("prepare", STAGE_MARK)):
            commit_prepare(replace(context, stage="prepare"), rows, model)
        return context

    return make
