"""Runs the fuzz: python -m fuzz.run [--mutations N] [--jobs N] [--seed N] [KIND ...]

Each kind of file is mutated N times, from seeds: the same command tries the same files. A case that crashes or takes
too long is written to tests/fuzz/corpus/KIND, which a unit test replays. Exits with 1 if there is one.
"""

import argparse
import faulthandler
import hashlib
import logging
import multiprocessing
import multiprocessing.pool
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

from fuzz.kinds import KINDS
from fuzz.mutate import mutated

CORPUS: Final = Path(__file__).parent / "corpus"
CHUNK: Final = 250
# On a machine that does other work too; in CPU time a case may take CPU_SECONDS.
HANG_SECONDS: Final = 300
CPU_SECONDS: Final = 30
# Of address space, of which each thread of the tokenizers library takes a part.
MEMORY_BYTES: Final = 3 * 2**30 + (os.cpu_count() or 1) * 2**28


class Chunk(NamedTuple):
    """Some mutations of one kind."""

    kind: str
    seed: int
    first: int
    cases: int


class Found(NamedTuple):
    """A case that must not happen."""

    kind: str
    data: bytes
    what: str


def cases(chunk: Chunk) -> Iterator[bytes]:
    """The mutated files of a chunk: each from a dice of its own, so that one can be made again alone."""
    kind = KINDS[chunk.kind]
    seeds = kind.seeds()
    for number in range(chunk.first, chunk.first + chunk.cases):
        dice = random.Random(f"{chunk.seed}/{chunk.kind}/{number}")
        yield mutated(dice.choice(seeds), dice, kind.mutations)


def tried(kind: str, data: bytes) -> str:
    """What is wrong with how a file was read; empty where nothing is."""
    started = time.process_time()
    try:
        KINDS[kind].read(data)
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return "".join(traceback.format_exception(error)[-6:])
    taken = time.process_time() - started
    return f"took {taken:.0f} seconds" if taken > CPU_SECONDS else ""


def work(chunk: Chunk, current: Path, results: Connection) -> None:
    """Tries the cases of a chunk in a process of its own, which a hanging one ends."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for data in cases(chunk):
        current.write_bytes(data)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        if what := tried(chunk.kind, data):
            results.send(Found(chunk.kind, data, what))
        faulthandler.cancel_dump_traceback_later()
    results.send(None)


def run_chunk(chunk: Chunk) -> list[Found]:
    """Everything that was found in a chunk, the death of the process included."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as directory:
        current = Path(directory) / "case"
        process = context.Process(target=work, args=(chunk, current, theirs))
        process.start()
        theirs.close()
        try:
            while (item := ours.recv()) is not None:
                found.append(item)
        except EOFError:
            process.join()
            found.append(Found(chunk.kind, current.read_bytes(), f"ended the process with {process.exitcode}"))
        process.join()
    return found


def known_kind(name: str) -> str:
    if name not in KINDS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(KINDS)}")
    return name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", type=known_kind, metavar="KIND", help=f"default: all of {', '.join(KINDS)}")
    parser.add_argument("--mutations", type=int, default=10_000, help="of each kind; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="processes; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    bad = 0
    for kind in options.kinds or KINDS:
        started = time.monotonic()
        chunks = [
            Chunk(kind, options.seed, first, min(CHUNK, options.mutations - first))
            for first in range(0, options.mutations, CHUNK)
        ]
        with multiprocessing.pool.ThreadPool(options.jobs) as pool:
            found = [item for items in pool.imap_unordered(run_chunk, chunks) for item in items]
        bad += len(found)
        sys.stdout.write(
            f"{kind}: {options.mutations} mutations, {len(found)} found, {time.monotonic() - started:.0f} s\n"
        )
        for item in found:
            keep(item)
        sys.stdout.flush()
    return 1 if bad else 0


def keep(found: Found) -> None:
    """Writes a case into the corpus, and shows what it did."""
    path = CORPUS / found.kind / hashlib.sha256(found.data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.data)
    sys.stdout.write(f"  {path.name}: {found.what}\n")


if __name__ == "__main__":
    sys.exit(main())
