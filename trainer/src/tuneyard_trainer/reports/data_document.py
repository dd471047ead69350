"""What the data report says: report.json, which the page is made of."""

from tuneyard_api.contracts.base import Contract
from tuneyard_api.kinds.finetunejob_status import AnswersStatus, FitStatus, ReplayStatus
from tuneyard_trainer.data.changes import ChangeSample
from tuneyard_trainer.data.tokenize.tokens import TextPart
from tuneyard_trainer.reports.reading import ReadingDocument


class DroppedReason(Contract):
    """Rows that were dropped for one reason, and the first of them."""

    reason: str
    rows: int
    where: str = ""
    message: str = ""
    row: str = ""
    """The beginning of it."""


class Said(Contract):
    """What somebody says in an example, or one of its fields."""

    speaker: str
    text: str


class Sample(Contract):
    """A row as it was read, and as it is trained."""

    where: str
    format: str
    before: str
    """JSON."""
    after: list[Said]


class LengthBin(Contract):
    """The kept rows with so many tokens."""

    begin: int
    end: int
    """Exclusive."""
    rows: int


class Cluster(Contract):
    """A kept row, and how many rows that repeat it were dropped."""

    where: str
    repeats: int


class Changed(Contract):
    """Rows that cleaning has changed or found something in."""

    what: str
    """What was done."""
    rows: int
    samples: list[ChangeSample]


class DataDocument(Contract):
    """report.json"""

    name: str
    """Of the FineTuneJob."""
    digest: str
    rows_in: int
    rows_kept: int
    rows: dict[str, int]
    """Kept rows by split."""
    dropped: dict[str, int]
    """Dropped rows by reason."""
    reasons: list[DroppedReason] = []
    """The same with an example of each, the commonest first."""
    tokens: int
    supervised_tokens: int
    length_percentiles: dict[str, int]
    """Tokens per row; empty where no tokenizer was given."""
    lengths: list[LengthBin] = []
    answers: AnswersStatus
    replay: ReplayStatus | None = None
    replay_dropped: dict[str, int] = {}
    """Rows of dataset.replay by the reason for which they were dropped."""
    trained_row: list[TextPart]
    """The text of one row, in pieces that are trained and pieces that are not."""
    samples: list[Sample]
    clusters: list[Cluster] = []
    """Of duplicates that name the row which they repeat, the largest first."""
    changes: list[Changed] = []
    """The commonest first."""
    reading: ReadingDocument = ReadingDocument()
    fit: FitStatus | None = None
    """The memory that the training needs, where it was estimated."""
