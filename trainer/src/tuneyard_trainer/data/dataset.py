"""The dataset of a job: its sources on this machine, and its splits as prepare hands them to the later stages."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, get_args

from tuneyard_api.kinds.dataset import Dataset, DataSource
from tuneyard_store.store import Store
from tuneyard_trainer.data.examples import Key, to_json
from tuneyard_trainer.data.files import DataFile, fetch
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.data.source import Reading, SourceRow, read_source
from tuneyard_trainer.data.split import TRAIN, VALIDATION, Split
from tuneyard_trainer.data.tokenize import TokenizedExample

INDEX_FILE: Final = "files.json"

Files = dict[str, list[DataFile]]
"""The files of each source, by the source's name."""


def sources(dataset: Dataset) -> dict[str, DataSource]:
    """The sources by name: train-0, train-1, ..., and validation where it has a URI."""
    named = {f"{TRAIN}-{number}": source for number, source in enumerate(dataset.train)}
    return named | ({VALIDATION: held_out} if (held_out := dataset.validation.source) else {})


def fetch_dataset(store: Store, dataset: Dataset, directory: Path) -> Files:
    """Downloads all sources, if there are any, into an empty `directory`.

    Raises:
        BadInput: a source has no files, or only empty ones.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    files = {name: fetch(store, source.uri, directory / name) for name, source in sources(dataset).items()}
    write_index(directory, files)
    return files


def write_index(directory: Path, files: Files) -> None:
    """Leaves in `directory` what fetched_dataset reads."""
    index = {name: [(file.uri, str(file.path), file.sha256) for file in found] for name, found in files.items()}
    (directory / INDEX_FILE).write_text(json.dumps(index))


def fetched_dataset(directory: Path) -> Files:
    """What fetch_dataset has downloaded into `directory`."""
    index = json.loads((directory / INDEX_FILE).read_text())
    return {name: [DataFile(uri, Path(path), sha256) for uri, path, sha256 in files] for name, files in index.items()}


def read_dataset(dataset: Dataset, files: Files, reading: Reading) -> Iterator[SourceRow]:
    """The rows of all sources. Those of the validation source come first, so that training rows can be compared."""
    named = sources(dataset)
    for name in sorted(named, key=lambda name: name != VALIDATION):
        yield from read_source(named[name], files[name], VALIDATION if name == VALIDATION else TRAIN, reading)


def write_splits(
    rows: Iterable[TokenizedExample],
    validation: set[Key],
    directory: Path,
    on_row: Callable[[Split, TokenizedExample], None],
) -> None:
    """Writes each split as shards (<split>/*.npy) and as text (<split>.jsonl) into a new directory.

    Args:
        validation: the keys of the rows that are held out.
        on_row: called for each row that is written.
    """
    directory.mkdir()
    writers = {split: ShardWriter(directory / split) for split in get_args(Split)}
    with ExitStack() as stack:
        texts = {split: stack.enter_context((directory / f"{split}.jsonl").open("w")) for split in writers}
        for row in rows:
            split: Split = VALIDATION if row.source.key in validation else TRAIN
            writers[split].add(row.tokens)
            if not row.piece:
                texts[split].write(json.dumps(to_json(row.source.example), ensure_ascii=False) + "\n")
            on_row(split, row)
    for writer in writers.values():
        writer.finish()
