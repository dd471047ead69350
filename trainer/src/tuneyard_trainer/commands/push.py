"""`tuneyard push`: a model or data from this machine into the store, and the YAML that uses it."""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import yaml

from tuneyard_api import names, reasons
from tuneyard_api.contracts.artifact import MANIFEST
from tuneyard_store.artifact import describe_files, publish_files, read_manifest
from tuneyard_store.errors import ArtifactCorrupt, ObjectNotFound, StoreError
from tuneyard_store.store import Store
from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.formats import detect
from tuneyard_trainer.data.readers import endings, read_rows
from tuneyard_trainer.data.readers.row import BrokenRow
from tuneyard_trainer.model.check import CONFIG
from tuneyard_trainer.model.layout import INDEX, config_files, weight_files
from tuneyard_trainer.runtime.errors import BadInput, from_store

Json = dict[str, Any]

# The artifact format that has the weights as they are, by the dtype in config.json.
FORMATS: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
SECRET: Final = "s3-credentials"  # noqa: S105 - the name that all documents use
CHECKED_ROWS: Final = 100


class Pushed(NamedTuple):
    """What was uploaded, and the objects or parts of objects that use it."""

    kind: str
    uri: str
    digest: str
    files: int
    size_bytes: int
    finetunejob: Json
    """Part of a FineTuneJob."""
    modelserver: Json | None = None
    """A whole ModelServer that serves it; None for data."""

    def wire(self) -> Json:
        return {key: value for key, value in self._asdict().items() if value is not None}

    def yaml(self) -> str:
        """A file with the ModelServer, and in comments what goes into a FineTuneJob."""
        head = f"{self.kind} {self.uri}: {self.files} files, {self.size_bytes} bytes\n{self.digest}\n"
        used = f"{head}In a FineTuneJob:\n{_dump(self.finetunejob)}"
        served = f"# A ModelServer that serves it as it is:\n{_dump(self.modelserver)}" if self.modelserver else ""
        return "".join(f"# {line}\n" for line in used.splitlines()) + served


def push(store: Store, path: Path, uri: str) -> Pushed:
    """Uploads a model's directory, a directory with data, or a file with data.

    Raises:
        BadInput: there is nothing at `path` that a FineTuneJob could use, or the store does not take it.
        TryAgain: the store does not answer.
    """
    if not path.exists():
        raise BadInput(reasons.OBJECT_NOT_FOUND, f"{path} does not exist", "Give a model's directory, or data.")
    try:
        if (path / CONFIG).is_file():
            return _push_model(store, path, uri.rstrip("/"))
        return _push_data(store, path, uri)
    except StoreError as error:
        raise from_store(error) from error


def _check_weights(directory: Path, found: list[str]) -> None:
    """Raises BadInput when a shard of the model is missing."""
    if missing := sorted(set(weight_files(directory)) - set(found)):
        raise BadInput(
            reasons.MODEL_WEIGHTS_MISSING,
            f"The model at {directory} is incomplete: {', '.join(missing)} missing",
            "Add the missing *.safetensors files.",
        )


def _push_model(store: Store, directory: Path, uri: str) -> Pushed:
    """The files of the model and, as the last object, their manifest. What is there already is not uploaded again."""
    found = [file.name for file in directory.iterdir() if file.is_file()]
    _check_weights(directory, found)
    wanted = {*config_files(found), *weight_files(directory), *({INDEX} & set(found))} - {MANIFEST}
    manifest = describe_files(directory, wanted, _format(directory))
    if _stored(store, uri) != manifest.digest:
        publish_files(store, directory, uri, manifest)
    name = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(uri).name.lower()).strip("-")
    served = {"uri": uri, "digest": manifest.digest, "secretRef": {"name": SECRET}}
    server = {"apiVersion": names.API_VERSION, "kind": "ModelServer", "metadata": {"name": name}}
    return Pushed(
        *("Model", uri, manifest.digest, len(manifest.files), manifest.size_bytes),
        finetunejob={"spec": {"model": {"uri": uri}}},
        modelserver=server | {"spec": {"model": served}},
    )


def _format(directory: Path) -> str:
    config = json.loads((directory / CONFIG).read_text())
    return FORMATS.get(str(config.get("dtype") or config.get("torch_dtype")), "bf16")


def _stored(store: Store, uri: str) -> str:
    """The digest of the artifact that is there; empty where there is none."""
    try:
        return read_manifest(store, uri).digest
    except (ObjectNotFound, ArtifactCorrupt):
        return ""


def _push_data(store: Store, path: Path, uri: str) -> Pushed:
    """The files with data, after a look at the first rows of each."""
    files = sorted(_data_files(path))
    if not files:
        raise BadInput(
            reasons.DATASET_NOT_FOUND,
            f"{path} has neither {CONFIG} nor a file that ends with {', '.join(endings())}",
            "Give the directory of a model, or data.",
        )
    root = f"{uri}{path.name}" if path.is_file() and uri.endswith("/") else uri.rstrip("/")
    targets = {f"{root}/{file.relative_to(path).as_posix()}" if path.is_dir() else root: file for file in files}
    for file in files:
        _check_rows(file)
    store.upload_all(targets)
    digest = hashlib.sha256(b"".join(_sha256(file) for file in files)) if len(files) > 1 else None
    whole = digest.hexdigest() if digest else _sha256(files[0]).hex()
    where = root if path.is_file() else f"{root}/"
    size = sum(file.stat().st_size for file in files)
    used = {"spec": {"dataset": {"train": [{"uri": where}]}}}
    return Pushed("Data", where, f"sha256:{whole}", len(files), size, used)


def _data_files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (file for file in path.rglob("*") if file.name.endswith(endings()) and file.is_file())


def _check_rows(path: Path) -> None:
    """Raises BadInput where one of the first rows is broken, or of no known format."""
    for row in islice(read_rows(path, str(path)), CHECKED_ROWS):
        try:
            if isinstance(row, BrokenRow):
                raise row.error
            detect(row.fields)
        except RowError as error:
            raise error.at(row.place) from error


def _sha256(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _dump(document: Json | None) -> str:
    return yaml.safe_dump(document, sort_keys=False)


def print_pushed(pushed: Pushed, form: str) -> None:
    """As YAML to apply, or as JSON for programs."""
    sys.stdout.write(json.dumps(pushed.wire(), indent=2) + "\n" if form == "json" else pushed.yaml())
