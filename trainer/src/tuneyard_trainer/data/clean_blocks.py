"""Reading and cleaning row by row: blocks of raw rows go to processes, and come back ready to be written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tuneyard_api.kinds.dataset import Cleaning, DataSource
from tuneyard_trainer.data.blocks import in_blocks, raw_size
from tuneyard_trainer.data.changes import Changes
from tuneyard_trainer.data.cleaning import ROW_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_steps
from tuneyard_trainer.data.files import DataFile, no_rows
from tuneyard_trainer.data.findings import Findings
from tuneyard_trainer.data.readers import read_raw_rows
from tuneyard_trainer.data.readers.row import RawRow
from tuneyard_trainer.data.recording import Outcome, Recording, settled
from tuneyard_trainer.data.source import Reading, SeenColumns, SourceRow, SourceRows
from tuneyard_trainer.data.split import Split
from tuneyard_trainer.data.spool import WrittenRow, written
from tuneyard_trainer.runtime.processes import Workers


class RawBlock(NamedTuple):
    """Some rows of a source."""

    source: DataSource
    split: Split
    rows: list[RawRow]


class CleanedBlock(NamedTuple):
    """What became of the rows of a block, and what was seen in them."""

    outcomes: list[Outcome[WrittenRow]]
    findings: Findings
    columns: SeenColumns
    changes: Changes


@dataclass(frozen=True)
class CleanBlocks:
    """The work of a process: it reads and cleans the rows of a block."""

    settings: Cleaning
    max_length: int
    """spec.training.maxLength, in tokens."""
    with_words: bool
    """Whether a step compares rows by their words."""
    with_questions: bool

    def __call__(self, block: RawBlock) -> CleanedBlock:
        recording = Recording[SourceRow](self.settings)
        reading = Reading(self.settings, recording.bad)
        context = CleaningContext(self.settings, self.max_length, recording.dropped)
        rows = SourceRows(block.source, reading)
        recording.take(apply_steps(ROW_STEPS, rows.read(block.rows, block.split), context))
        return CleanedBlock(self._written(recording.outcomes), reading.findings, rows.columns, context.changes)

    def _written(self, outcomes: list[Outcome[SourceRow]]) -> list[Outcome[WrittenRow]]:
        """The same with rows that are ready for a file."""
        kept = [outcome for outcome in outcomes if isinstance(outcome, SourceRow)]
        ready = written(kept, with_words=self.with_words, with_questions=self.with_questions)
        return [next(ready) if isinstance(outcome, SourceRow) else outcome for outcome in outcomes]


def clean_source(
    source: DataSource,
    files: Iterable[DataFile],
    split: Split,
    reading: Reading,
    cleaning: CleaningContext,
    workers: Workers[RawBlock, CleanedBlock],
) -> Iterator[WrittenRow]:
    """The rows of a source that ROW_STEPS keep, in order.

    Args:
        reading: what is found is counted here.
        cleaning: what is dropped and changed is counted here.

    Raises:
        BadInput: a file cannot be read; a row fails the job; there are no rows; or `columns` names what no row and no
            format has.
    """
    before, columns = reading.findings.rows, SeenColumns()
    rows = (row for file in files for row in read_raw_rows(file.path, file.uri))
    for block in workers.map(RawBlock(source, split, rows) for rows in in_blocks(rows, raw_size)):
        reading.findings.merge(block.findings)
        columns.merge(block.columns)
        cleaning.changes.merge(block.changes)
        yield from settled(block.outcomes, reading.bad, cleaning.dropped)
    if reading.findings.rows == before:
        raise no_rows(source.uri)
    columns.check(source)
