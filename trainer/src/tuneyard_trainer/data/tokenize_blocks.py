"""Rendering and tokenizing: blocks of cleaned rows go to processes, and come back with their tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from tuneyard_api.kinds.dataset import Cleaning
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.data.bad_rows import BadRows
from tuneyard_trainer.data.blocks import in_blocks
from tuneyard_trainer.data.cleaning import TOKEN_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_steps
from tuneyard_trainer.data.examples import RowError, content
from tuneyard_trainer.data.recording import Outcome, Recording, settled
from tuneyard_trainer.data.source import KnownRow
from tuneyard_trainer.data.spool import SpooledLine, WrittenRow
from tuneyard_trainer.data.template_fields import require_shown
from tuneyard_trainer.data.tokenize import ExampleTokenizer, TokenizedExample
from tuneyard_trainer.data.tokenize.tokens import AnswerCounts
from tuneyard_trainer.data.tokenize.vocabulary import within
from tuneyard_trainer.data.trainable import require_trainable
from tuneyard_trainer.runtime.processes import Workers

Block = list[SpooledLine]


class TokenizedBlock(NamedTuple):
    """What became of the rows of a block, and their answers."""

    outcomes: list[Outcome[TokenizedExample]]
    answers: AnswerCounts


@dataclass(frozen=True)
class TokenizeBlocks:
    """The work of a process: it tokenizes the rows of a block that can be trained."""

    tokenizer: ExampleTokenizer
    embedding_size: int
    """Rows of the model's embedding."""
    training: Training
    settings: Cleaning

    def __call__(self, block: Block) -> TokenizedBlock:
        recording = Recording[TokenizedExample](self.settings)
        context = CleaningContext(self.settings, self.training.max_length, recording.dropped)
        recording.take(_ready(self._tokenized(block, recording, context)))
        return TokenizedBlock(recording.outcomes, context.answers)

    def _tokenized(
        self, block: Block, recording: Recording[TokenizedExample], context: CleaningContext
    ) -> Iterator[TokenizedExample]:
        def drop(error: RowError, row: KnownRow) -> None:
            recording.bad.add(error, row.where, content(row.example))

        rows = require_trainable((line.row() for line in block), self.training, drop)
        rows = require_shown(rows, self.tokenizer.context.template, drop)
        examples = self.tokenizer.tokenize(list(rows), drop)
        fitting = within(examples, self.embedding_size, self.tokenizer.context.tokenizer)
        yield from apply_steps(TOKEN_STEPS, fitting, context)


def _ready(rows: Iterable[TokenizedExample]) -> Iterator[TokenizedExample]:
    """The same with their examples as they are written into <split>.jsonl; the pieces of a text share theirs."""
    for source, pieces in groupby(rows, lambda row: row.source):
        ready = WrittenRow(source.text, source.where, source.split, source.key)
        yield from (row._replace(source=ready, answers=()) for row in pieces)


def tokenize_lines(
    lines: Iterable[SpooledLine], bad: BadRows, cleaning: CleaningContext, workers: Workers[Block, TokenizedBlock]
) -> Iterator[TokenizedExample]:
    """The rows that can be trained and that TOKEN_STEPS keep, in order, with their tokens; each source is a WrittenRow.

    Args:
        bad: rows that cannot be used are counted here.
        cleaning: answers, and what is dropped, are counted here.

    Raises:
        BadInput: a row fails the job.
    """
    for block in workers.map(in_blocks(lines, lambda item: len(item.line))):
        cleaning.answers.merge(block.answers)
        yield from settled(block.outcomes, bad, cleaning.dropped)
