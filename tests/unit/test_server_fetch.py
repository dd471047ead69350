"""fetch: the model and a draft model are verified, and what the engine says against its options ends it early."""

import errno
import json
import threading
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from support.memorystore import MemoryStore
from tuneyard_api import names, reasons
from tuneyard_server import fetch as module
from tuneyard_server.engines.base import Cause
from tuneyard_server.fetch import Artifact, Check, fetch
from tuneyard_store.artifact import publish_directory

MODEL: Final = "s3://models/model"
DRAFT: Final = "s3://models/draft"
VOCABULARY: Final = {"a": 0, "b": 1}
WRONG: Final = Cause("vLLM does not accept an option: --x", reasons.INVALID_SPEC, "Correct it.")


class Fetching(NamedTuple):
    store: MemoryStore
    folder: Path

    def publish(self, uri: str, vocabulary: dict[str, int] = VOCABULARY) -> Artifact:
        source = self.folder / f"source-{uri.rpartition('/')[2]}"
        source.mkdir()
        (source / "config.json").write_text(json.dumps({"vocab_size": len(vocabulary)}))
        (source / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
        manifest = publish_directory(self.store, source, uri, "bf16")
        return Artifact(uri, manifest.digest, self.folder / uri.rpartition("/")[2])

    def run(self, model: Artifact, draft: Artifact | None = None, check: Check = lambda: None) -> int:
        return fetch(model, draft, self.folder / "no-secret", check=check)

    def termination(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "termination").read_text())
        return found


@pytest.fixture
def fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetching:
    store = MemoryStore()
    monkeypatch.setattr(module, "open_store", lambda credentials: store)
    monkeypatch.setattr(module, "from_environment", lambda: None)
    monkeypatch.setenv(names.ENV_TERMINATION_LOG, str(tmp_path / "termination"))
    return Fetching(store, tmp_path)


def test_model_and_draft_model_are_fetched(fetching: Fetching) -> None:
    model, draft = fetching.publish(MODEL), fetching.publish(DRAFT)
    assert fetching.run(model, draft) == 0
    assert (model.to / "config.json").exists()
    assert (draft.to / "config.json").exists()


def test_draft_model_is_verified(fetching: Fetching) -> None:
    model, draft = fetching.publish(MODEL), fetching.publish(DRAFT)
    assert fetching.run(model, draft._replace(digest=model.digest.replace("sha256:", "sha256:0")[:71])) == 65
    assert fetching.termination()["reason"] == reasons.ARTIFACT_CORRUPT


def test_draft_model_with_another_vocabulary_is_refused(fetching: Fetching) -> None:
    model, draft = fetching.publish(MODEL), fetching.publish(DRAFT, {"a": 1, "b": 0})
    assert fetching.run(model, draft) == names.EXIT_BAD_INPUT
    told = fetching.termination()
    assert told["reason"] == reasons.VOCABULARY_DIFFERS
    says = "token 0 of the model is 'a', which the draft model has as 1"
    assert told["message"] == f"{DRAFT} cannot draft for {MODEL}: {says}"
    assert "same family" in told["advice"]


def test_wrong_options_are_told(fetching: Fetching) -> None:
    assert fetching.run(fetching.publish(MODEL), check=lambda: WRONG) == names.EXIT_BAD_INPUT
    assert fetching.termination()["message"] == WRONG.message


def test_wrong_options_end_the_download(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check ends while the first file arrives; the second is not fetched."""
    has_begun, has_ended = threading.Event(), threading.Event()

    def check() -> Cause:
        has_begun.wait(10)
        return WRONG

    def on_bytes(self: module.Progress, count: int) -> None:
        has_begun.set()
        has_ended.wait(0.5)

    monkeypatch.setattr(module.Progress, "__call__", on_bytes)
    model = fetching.publish(MODEL)
    assert fetching.run(model, check=check) == names.EXIT_BAD_INPUT
    assert fetching.termination()["reason"] == reasons.INVALID_SPEC
    assert not (model.to / "tokenizer.json").exists()


def test_missing_artifact_is_told_before_wrong_options(fetching: Fetching) -> None:
    missing = Artifact("s3://models/absent", "sha256:0", fetching.folder / "absent")
    assert fetching.run(missing, check=lambda: WRONG) == names.EXIT_BAD_INPUT
    assert fetching.termination()["reason"] == reasons.ARTIFACT_NOT_FOUND


def test_artifact_that_was_deleted(fetching: Fetching) -> None:
    model = fetching.publish(MODEL)
    fetching.store.objects.clear()
    assert fetching.run(model) == names.EXIT_BAD_INPUT
    found = fetching.termination()
    assert found["reason"] == reasons.ARTIFACT_NOT_FOUND
    assert found["message"].startswith(f"There is no artifact at {MODEL}: ") and "spec.model.uri" in found["advice"]


def test_digest_of_another_artifact(fetching: Fetching) -> None:
    model = fetching.publish(MODEL)
    assert fetching.run(model._replace(digest=f"sha256:{'0' * 64}")) == names.EXIT_BAD_INPUT
    found = fetching.termination()
    assert found["reason"] == reasons.ARTIFACT_CORRUPT
    assert model.digest in found["message"] and "write the one in status.artifacts" in found["advice"]


def test_full_disk(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = fetching.publish(MODEL)
    monkeypatch.setattr(module, "fetch_directory", full)
    assert fetching.run(model) == names.EXIT_UNKNOWN, "another node may have room"
    assert fetching.termination()["reason"] == reasons.DISK_FULL
