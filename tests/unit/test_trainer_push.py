"""`tuneyard push`: what is uploaded, and the YAML that uses it."""

import gzip
import json
from pathlib import Path

import pytest
import yaml

from support.memorystore import MemoryStore
from tuneyard_api.kinds import KINDS
from tuneyard_api.validation import problems
from tuneyard_store.artifact import fetch_directory, read_manifest
from tuneyard_trainer.commands.push import Pushed, push
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://models/My_Model-v1.5"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """As `hf download` leaves it, with files that do not belong to the model."""
    folder = tmp_path / "model"
    (folder / ".cache").mkdir(parents=True)
    files = {
        "config.json": json.dumps({"torch_dtype": "float16"}),
        "tokenizer.json": "{}",
        "model.safetensors": "weights",
        "pytorch_model.bin": "code",
        "README.md": "text",
        ".cache/lock": "",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_model_is_an_artifact(model: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    pushed = push(store, model, f"{URI}/")
    assert sorted(name.removeprefix(f"{URI}/") for name in store.objects) == [
        *("config.json", "manifest.json", "model.safetensors", "tokenizer.json")
    ]
    assert (pushed.kind, pushed.uri, pushed.files, pushed.size_bytes) == ("Model", URI, 3, 35)
    assert read_manifest(store, URI).format == "fp16"
    fetched = fetch_directory(store, URI, tmp_path / "fetched", pushed.digest)
    assert fetched.digest == pushed.digest


def test_model_is_not_uploaded_twice(model: Path) -> None:
    store = MemoryStore()
    first = push(store, model, URI)
    del store.objects[f"{URI}/config.json"]
    assert push(store, model, URI) == first
    assert f"{URI}/config.json" not in store.objects, "the manifest says that all is there"
    (model / "model.safetensors").write_text("other weights")
    assert push(store, model, URI).digest != first.digest
    assert f"{URI}/config.json" in store.objects


def test_yaml_can_be_applied(model: Path) -> None:
    pushed = push(MemoryStore(), model, URI)
    (server,) = yaml.safe_load_all(pushed.yaml())
    assert server["metadata"]["name"] == "my-model-v1-5"
    assert server["spec"]["model"] == {"uri": URI, "digest": pushed.digest, "secretRef": {"name": "s3-credentials"}}
    (kind,) = [kind for kind in KINDS if kind.kind == "ModelServer"]
    assert problems(kind, server) == []
    assert pushed.digest in pushed.yaml().splitlines()[1]
    assert in_comments(pushed) == {"spec": {"model": {"uri": URI}}}
    assert json.loads(json.dumps(pushed.wire()))["modelserver"] == server


def in_comments(pushed: Pushed) -> object:
    """What goes into a FineTuneJob."""
    lines = [line.removeprefix("# ") for line in pushed.yaml().splitlines() if line.startswith("#")]
    after = lines[lines.index("In a FineTuneJob:") + 1 :]
    return yaml.safe_load("\n".join(line for line in after if not line.startswith("A ModelServer")))


@pytest.mark.parametrize(
    ("uri", "stored"),
    [("s3://data/rows.jsonl", "s3://data/rows.jsonl"), ("s3://data/", "s3://data/my.jsonl")],
)
def test_file_with_data(tmp_path: Path, uri: str, stored: str) -> None:
    store = MemoryStore()
    (tmp_path / "my.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    pushed = push(store, tmp_path / "my.jsonl", uri)
    assert set(store.objects) == {stored}
    assert in_comments(pushed) == {"spec": {"dataset": {"train": [{"uri": stored}]}}}
    assert list(yaml.safe_load_all(pushed.yaml())) == [], "there is nothing to apply"
    assert "modelserver" not in pushed.wire()


def test_directory_with_data(tmp_path: Path) -> None:
    store = MemoryStore()
    (tmp_path / "more").mkdir()
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "more" / "b.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "c", "completion": "d"}\n'))
    (tmp_path / "notes.txt").write_text("not data")
    pushed = push(store, tmp_path, "s3://data/rows")
    assert set(store.objects) == {"s3://data/rows/a.jsonl", "s3://data/rows/more/b.jsonl.gz"}
    assert (pushed.uri, pushed.files) == ("s3://data/rows/", 2)
    before = pushed.digest
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "c"}\n')
    assert push(store, tmp_path, "s3://data/rows").digest != before


@pytest.mark.parametrize(
    ("name", "text", "reason", "says"),
    [
        ("x.jsonl", '{"a": 1}\n', "InvalidRow", "x.jsonl, line 1: the fields a are of no known format"),
        ("x.jsonl", '{"prompt": "a", "completion": "b"}\n{', "InvalidJSON", "x.jsonl, line 2"),
        ("config.json", "{}", "ModelWeightsMissing", "model.safetensors missing"),
        ("x.txt", "", "DatasetNotFound", "has neither config.json nor a file that ends with .jsonl"),
    ],
)
def test_nothing_wrong_is_uploaded(tmp_path: Path, name: str, text: str, reason: str, says: str) -> None:
    store = MemoryStore()
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=says) as caught:
        push(store, tmp_path, "s3://data/x")
    assert caught.value.reason == reason
    assert not store.objects


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing does not exist"):
        push(MemoryStore(), tmp_path / "nothing", "s3://data/x")
