"""The dataset of a job: its sources on this machine, and its splits as prepare hands them to the later stages."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tuneyard_api.kinds.dataset import Dataset, DataSource
from tuneyard_store.store import Store
from tuneyard_trainer.data.builtin import builtin_files, is_builtin
from tuneyard_trainer.data.clean_blocks import CleanedBlock, RawBlock, clean_source
from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.files import DataFile, fetch
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.data.source import Reading
from tuneyard_trainer.data.split import GENERAL, TRAIN, VALIDATION, Split
from tuneyard_trainer.data.spool import WrittenRow
from tuneyard_trainer.data.tokenize import TokenizedExample
from tuneyard_trainer.runtime.processes import Workers

REPLAY: Final = "replay"
INDEX_FILE: Final = "files.json"
SPLITS: Final[dict[str, Split]] = {VALIDATION: VALIDATION, REPLAY: GENERAL}
"""Of the sources that are not for training alone."""

Files = dict[str, list[DataFile]]
"""The files of each source, by the source's name."""


def sources(dataset: Dataset) -> dict[str, DataSource]:
    """The sources by name: train-0, train-1, ..., validation where it has a URI, and replay where there is one."""
    named = {f"{TRAIN}-{number}": source for number, source in enumerate(dataset.train)}
    if held_out := dataset.validation.source:
        named[VALIDATION] = held_out
    if dataset.replay:
        named[REPLAY] = dataset.replay.source
    return named


def fetch_dataset(store: Store, dataset: Dataset, directory: Path) -> Files:
    """Downloads all sources, if there are any, into an empty `directory`.

    Raises:
        BadInput: a source has no files, or only empty ones.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    files = {
        name: builtin_files(source.uri) if is_builtin(source.uri) else fetch(store, source.uri, directory / name)
        for name, source in sources(dataset).items()
    }
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


def clean_dataset(
    dataset: Dataset,
    files: Files,
    reading: Reading,
    cleaning: CleaningContext,
    workers: Workers[RawBlock, CleanedBlock],
) -> Iterator[WrittenRow]:
    """The rows of all sources, cleaned one by one, so that each can be compared with those before it.

    First come the rows of the validation source, last those of dataset.replay. See clean_source.
    """
    named = sources(dataset)
    for name in sorted(named, key=lambda name: (name == REPLAY, name != VALIDATION)):
        split = SPLITS.get(name, TRAIN)
        yield from clean_source(named[name], files[name], split, reading.of(split), cleaning.of(split), workers)


def write_splits(
    rows: Iterable[tuple[Split, TokenizedExample]],
    splits: Iterable[Split],
    directory: Path,
    on_row: Callable[[Split, TokenizedExample], None],
) -> None:
    """Writes each split as shards (<split>/*.npy) and as text (<split>.jsonl) into a new directory.

    Args:
        on_row: called for each row that is written.
    """
    directory.mkdir()
    writers = {split: ShardWriter(directory / split) for split in splits}
    with ExitStack() as stack:
        texts = {split: stack.enter_context((directory / f"{split}.jsonl").open("w")) for split in writers}
        for split, row in rows:
            writers[split].add(row.tokens)
            if not row.piece:
                texts[split].write(row.source.text + "\n")
            on_row(split, row)
    for writer in writers.values():
        writer.finish()
