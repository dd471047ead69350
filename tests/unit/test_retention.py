"""`tuneyard gc`: what is deleted of old releases, and what never is."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.memorystore import MemoryStore
from tuneyard_api.contracts.results import DatasetSummary, MeasuredArtifact, Recommendation, Release
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec, Output
from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES
from tuneyard_trainer.commands.cli import main
from tuneyard_trainer.commands.retention import collect
from tuneyard_trainer.runtime.errors import BadInput

ROOT = "s3://bucket/bot"
OUTPUT = Output(uri=ROOT, keep=1)
SPEC = FineTuneJobSpec.model_validate(
    {
        "model": {"uri": "s3://models/a"},
        "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
        "output": OUTPUT.wire(),
    }
)


def hexed(text: str) -> str:
    return text.encode().hex().ljust(64, "0")


class Releases(MemoryStore):
    """A store with three releases, the second of which has trained on the rows of the first."""

    def __init__(self) -> None:
        super().__init__()
        for number, prepared in enumerate(["one", "one", "three"]):
            self.add(number, prepared)

    def digests(self, number: int, prepared: str) -> dict[Stage, str]:
        return {stage: hexed(prepared if stage == "prepare" else f"{stage}{number}") for stage in STAGES}

    def add(self, number: int, prepared: str) -> None:
        digests = self.digests(number, prepared)
        for stage, digest in digests.items():
            for name in ("data", "data-2", "stage.json"):
                self.write(f"{ROOT}/runs/{digest}/{stage}/{name}", b"12345")
        artifact = MeasuredArtifact(
            format="bf16", uri="s3://x", digest=f"sha256:{hexed(f'artifact{number}')}", size_bytes=5
        )
        release = Release(
            name="bot",
            spec=SPEC,
            digests=digests,
            artifacts=[artifact],
            recommended=Recommendation(format="bf16", reason="the only one"),
            dataset=DatasetSummary(rows_in=1, rows_kept=1, tokens=1, digest="d"),
        )
        uri = f"{ROOT}/runs/{digests['publish']}/publish/release.json"
        self.write(uri, release.model_dump_json(by_alias=True, exclude_none=True).encode())
        self.modified[uri] = 1e9 + number

    def stages_left(self) -> set[str]:
        """The first letters of their digests' text are their names."""
        found = {name.removeprefix(f"{ROOT}/runs/").split("/")[0] for name in self.objects}
        return {bytes.fromhex(digest).rstrip(b"\0").decode() for digest in found}


def of(number: int) -> set[str]:
    return {f"{stage}{number}" for stage in STAGES if stage != "prepare"}


def test_a_dry_run_deletes_nothing() -> None:
    store = Releases()
    before = dict(store.objects)
    lines = collect(store, OUTPUT, None, None, deletes=False)
    assert store.objects == before
    assert [line.split()[0] for line in lines] == ["keep", "delete", "delete", "9"]
    assert "Nothing is deleted without --delete" in lines[-1]


def test_the_newest_stay() -> None:
    store = Releases()
    collect(store, OUTPUT, None, "", deletes=True)
    assert store.stages_left() == {"three", *of(2)}


def test_shared_stages_stay() -> None:
    store = Releases()
    collect(store, OUTPUT, 2, "", deletes=True)
    assert store.stages_left() == {"three", *of(2), "one", *of(1)}


@pytest.mark.parametrize("name", ["artifact0", "train0"])
def test_what_is_in_use_stays(name: str) -> None:
    """A ModelServer names an artifact, a FineTuneJob the stages of its run; the whole release stays for either."""
    store = Releases()
    objects = json.dumps({"items": [{"status": {"release": {"digest": f"sha256:{hexed(name)}"}}}]})
    lines = collect(store, OUTPUT, None, objects, deletes=True)
    assert store.stages_left() == {"three", *of(2), "one", *of(0)}
    assert lines[1].endswith("in use")


def test_a_stage_of_a_running_job_stays() -> None:
    store = Releases()
    collect(store, OUTPUT, None, hexed("one"), deletes=True)
    assert "one" in store.stages_left()


def test_the_commit_mark_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Releases()
    deleted: list[str] = []
    monkeypatch.setattr(store, "delete_prefix", deleted.append)
    collect(store, OUTPUT, None, "", deletes=True)
    stages = [uri.split("/")[6] for uri in deleted[::2]]
    assert stages == sorted(stages, key=[*map(str, STAGES)].index, reverse=True)
    assert [uri.rsplit("/", 1)[1] for uri in deleted] == ["stage.json", ""] * 9
    assert deleted[0].removesuffix("stage.json") == deleted[1]


@pytest.mark.parametrize(
    ("output", "in_use", "says"),
    [(Output(uri=ROOT), "", "output.keep is not set"), (OUTPUT, None, "kubectl get finetunejobs,modelservers -A")],
)
def test_refused(output: Output, in_use: str | None, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        collect(Releases(), output, None, in_use, deletes=True)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    store: Any = Releases()
    monkeypatch.setattr("tuneyard_trainer.commands.cli.open_store", lambda credentials: store)
    job = {"apiVersion": "tuneyard.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "bot"}}
    (tmp_path / "job.yaml").write_text(json.dumps(job | {"spec": SPEC.wire()}))
    (tmp_path / "objects.json").write_text(hexed("artifact0"))
    assert main(["gc", str(tmp_path / "job.yaml"), "--in-use", str(tmp_path / "objects.json"), "--delete"]) == 0
    assert "4 stages" in capsys.readouterr().out
    assert store.stages_left() == {"three", *of(2), "one", *of(0)}
