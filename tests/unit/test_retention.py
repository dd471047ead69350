"""`tuneyard gc`: what is deleted of old releases, and what never is."""

import json
from datetime import UTC, datetime
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


NOW = datetime.now(UTC).timestamp()
DAY = 86400.0


class WithFailures(Releases):
    """And three runs that have not published: an old one, one that was written to yesterday, and the chain of a job."""

    def __init__(self) -> None:
        super().__init__()
        for name, days in (("old", 40), ("young", 1), ("queued", 40)):
            self.leave(f"{name} train", "train", days, "checkpoints/step-4/manifest.json", "stage.json")
            self.leave(f"{name} prepare", "prepare", 40, "train/0.npy", "stage.json")
        # Trained on the rows of a release, and stopped by its gates.
        self.leave("gated", "publish", 40, "evaluation.json")

    def leave(self, name: str, stage: Stage, days: float, *files: str) -> None:
        for number, file in enumerate(files):
            uri = f"{ROOT}/runs/{hexed(name)}/{stage}/{file}"
            self.write(uri, b"12345")
            self.modified[uri] = NOW - (days + number) * DAY

    def unpublished_left(self) -> set[str]:
        return {name for name in self.stages_left() if not name[-1].isdigit()} - {"one", "three"}


QUEUED = json.dumps({"status": {"stages": [{"digest": hexed("queued train")}, {"digest": hexed("queued prepare")}]}})


def test_unpublished_runs_stay_unless_asked_for() -> None:
    store = WithFailures()
    before = store.unpublished_left()
    collect(store, OUTPUT, None, "", deletes=True)
    assert store.unpublished_left() == before
    assert len(before) == 7


def test_old_unpublished_stages_go() -> None:
    """Without output.keep all releases stay; what a job in the cluster names stays, as does what was written lately."""
    store = WithFailures()
    released = store.stages_left() - store.unpublished_left()
    lines = collect(store, Output(uri=ROOT), None, QUEUED, unpublished_days=30, deletes=True)
    assert store.unpublished_left() == {"young train", "queued train", "queued prepare"}
    assert store.stages_left() - store.unpublished_left() == released
    told = sorted(line.split()[-1] for line in lines if "unpublished" in line)
    assert told == ["prepare", "prepare", "publish", "train"]
    assert lines[-1].startswith("4 stages")


def test_a_dry_run_deletes_no_unpublished_stage() -> None:
    store = WithFailures()
    before = dict(store.objects)
    lines = collect(store, Output(uri=ROOT), None, None, unpublished_days=30, deletes=False)
    assert store.objects == before
    assert sum("unpublished" in line for line in lines) == 6


def test_the_age_is_that_of_the_newest_object() -> None:
    store = WithFailures()
    store.leave("old train", "train", 2, "checkpoints/step-8/manifest.json")
    collect(store, Output(uri=ROOT), None, QUEUED, unpublished_days=30, deletes=True)
    assert "old train" in store.unpublished_left()


def test_what_is_no_stage_is_left_alone() -> None:
    store = MemoryStore()
    names = [f"{ROOT}/runs/{hexed('a')}/notes/x", f"{ROOT}/runs/mine/train/x", f"{ROOT}/memory/x.json"]
    for name in names:
        store.write(name, b"x")
    collect(store, Output(uri=ROOT), None, "", unpublished_days=1, deletes=True)
    assert sorted(store.objects) == sorted(names)


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

    store.write(f"{ROOT}/runs/{hexed('left')}/train/stage.json", b"{}")
    options = ["--unpublished-days", "7", "--in-use", str(tmp_path / "objects.json")]
    assert main(["gc", str(tmp_path / "job.yaml"), *options]) == 0
    assert "unpublished train" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["gc", str(tmp_path / "job.yaml"), "--unpublished-days", "0"])
