"""The prepare stage on one file, with a folder as its store: python -m bench.prepare_run MODEL DATA FOLDER SETTINGS

SETTINGS is JSON: clean (dataset.clean), maxLength, threads. Prints what was kept, as JSON. Processes that the stage
starts import this module too.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO

from support.memorystore import MemoryStore
from tuneyard_api.contracts.results import PrepareResult
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_store.store import ObjectInfo
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage


class FolderStore(MemoryStore):
    """A store whose large objects are files, so that they take no memory; the weights are not hashed."""

    def __init__(self, folder: Path, files: dict[str, Path]) -> None:
        super().__init__()
        self._folder = folder
        self._files = files

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        for name, path in sorted(self._files.items()):
            if name.startswith(uri):
                yield ObjectInfo(name, name.split("/", 3)[3], path.stat().st_size, "etag", 0.0)

    def read(self, uri: str) -> bytes:
        return self._files[uri].read_bytes() if uri in self._files else super().read(uri)

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        with self._files[uri].open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    def open(self, uri: str) -> AbstractContextManager[IO[bytes]]:
        return self._files[uri].open("rb") if uri in self._files else super().open(uri)

    def exists(self, uri: str) -> bool:
        return uri in self._files or super().exists(uri)

    def upload(self, path: Path, uri: str) -> None:
        self._files[uri] = self._folder / sha256(uri.encode()).hexdigest()
        shutil.copyfile(path, self._files[uri])

    def upload_all(self, files: Mapping[str, Path]) -> dict[str, str]:
        for uri, path in files.items():
            self.upload(path, uri)
        return {uri: file_digest(path.open("rb"), "sha256").hexdigest() for uri, path in files.items()}

    def download(self, uri: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._files[uri], path)


def main() -> None:
    model, data, folder = map(Path, sys.argv[1:4])
    given = json.loads(sys.argv[4])
    files = {f"s3://models/m/{path.name}": path for path in model.iterdir()} | {"s3://data/rows.jsonl": data}
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/m"},
            "dataset": {"train": [{"uri": "s3://data/rows.jsonl"}], "clean": given["clean"]},
            "training": {"maxLength": given["maxLength"]},
            "output": {"uri": "s3://out/put"},
        }
    )
    context = StageContext(
        stage="prepare",
        name="bench",
        spec=spec,
        store=FolderStore(folder / "objects", files),
        work=folder / "work",
        threads=given["threads"],
    )
    for path in (folder / "objects", context.work):
        path.mkdir(parents=True)
    outcome = run_stage(context)
    assert isinstance(outcome.result, PrepareResult), outcome
    print(json.dumps({"rows": outcome.result.dataset.rows_kept, "tokens": outcome.result.dataset.tokens}))


if __name__ == "__main__":
    main()
