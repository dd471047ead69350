"""spec.dataset of a FineTuneJob: where rows come from, how they are read, and how they are cleaned."""

import re
from typing import Annotated, Final, Literal

from pydantic import Field

from tuneyard_api.base import S3_BUCKET, Model, S3Uri
from tuneyard_api.registry import DATA_FORMATS, OneOf, described
from tuneyard_api.rules import Obeys, Rule, matches

COLUMNS: Final = "Maps the format's field names to your column names, for example {prompt: question}."
IGNORE: Final = "Names of fields that are not read, in rows and in messages, although they mean something."


class DataSource(Model):
    uri: S3Uri = Field(
        description="An object, or a prefix with data files below it: .jsonl, .json, .csv, .tsv or .parquet, also "
        "compressed as .gz or .zst."
    )
    format: Annotated[str, OneOf(DATA_FORMATS, "auto")] = Field(
        default="auto",
        description=f"Row format. {described(DATA_FORMATS)} auto: found from the fields of each row. Default: auto.",
    )
    columns: dict[str, str] | None = Field(default=None, description=COLUMNS)
    ignore: list[str] = Field(default=[], max_length=64, description=f"{IGNORE} Default: none.")


class ValidationSource(Model):
    """Rows that are never trained on."""

    uri: S3Uri | None = None
    format: Annotated[str, OneOf(DATA_FORMATS, "auto")] | None = Field(
        default=None, description="Row format of the uri, as in train. Default: auto."
    )
    columns: dict[str, str] | None = Field(default=None, description=COLUMNS)
    ignore: list[str] | None = Field(default=None, max_length=64, description=IGNORE)
    fraction: float | None = Field(
        default=None, gt=0, le=0.5, description="Share of the training rows that is held out. Default: 0.05."
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "validation takes exactly one of uri and fraction",
                lambda validation: (validation.uri is None) != (validation.fraction is None),
                cel="has(self.uri) != has(self.fraction)",
            ),
            Rule(
                "format, columns and ignore say how the rows of validation.uri are read: write a uri too",
                lambda validation: validation.uri is not None
                or (validation.format, validation.columns, validation.ignore) == (None, None, None),
                cel="has(self.uri) || !(has(self.format) || has(self.columns) || has(self.ignore))",
            ),
        )

    @property
    def source(self) -> DataSource | None:
        """The source of the held-out rows, if they are not a part of the training rows."""
        if self.uri is None:
            return None
        return DataSource(uri=self.uri, format=self.format or "auto", columns=self.columns, ignore=self.ignore or [])


# Rows that come with tuneyard, by what their URI has behind builtin://.
BUILTIN: Final = "builtin://"
GENERAL_ROWS: Final = f"{BUILTIN}general"

ReplayUri = Annotated[
    str,
    Field(max_length=1024),
    Obeys(
        matches(
            f"{GENERAL_ROWS}|{S3_BUCKET}",
            f"neither {GENERAL_ROWS} nor a URI of an S3 bucket: write {GENERAL_ROWS}, or s3://bucket/path",
            cel=True,
        )
    ),
]


class Replay(Model):
    """General rows that are trained with the job's own, so that the model keeps what it can do already."""

    uri: ReplayUri = Field(
        default=GENERAL_ROWS,
        description=f"As in train; or {GENERAL_ROWS}, chats in English and Korean that come with tuneyard. "
        f"Default: {GENERAL_ROWS}.",
    )
    format: Annotated[str, OneOf(DATA_FORMATS, "auto")] = Field(
        default="auto", description="Row format of the uri, as in train. Default: auto."
    )
    columns: dict[str, str] | None = Field(default=None, description=COLUMNS)
    ignore: list[str] = Field(default=[], max_length=64, description=f"{IGNORE} Default: none.")
    fraction: float = Field(
        default=0.15,
        gt=0,
        le=0.5,
        description="Share of all trained tokens that are of these rows; fewer where they do not suffice. A fifth of "
        "the rows, at most 200, is held out: evaluate measures on them what the model has forgotten. Default: 0.15.",
    )

    @property
    def source(self) -> DataSource:
        """How the rows are read."""
        return DataSource.model_construct(uri=self.uri, format=self.format, columns=self.columns, ignore=self.ignore)


class BadRowsPolicy(Model):
    """What happens to rows that cannot be used: no JSON, no answer, an unknown field that means something, ..."""

    policy: Literal["drop", "fail"] = Field(
        default="drop", description="drop counts them and writes them to dropped.jsonl. Default: drop."
    )
    max_fraction: float = Field(
        default=0.1, ge=0, le=1, description="More bad rows than this share of all rows fail the job. Default: 0.1."
    )


class RowRule(Model):
    """A rule of your own about rows."""

    field: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="The field of the row that the pattern is looked for in, as it is named in the file; "
        "messages.content means the content of each message. Values that are no text are read as JSON. "
        "Default: all that is said in the row.",
    )
    pattern: str = Field(
        min_length=1, max_length=1024, description="A regular expression of Python; it may match anywhere in the field."
    )
    action: Literal["drop", "keep"] = Field(
        default="drop", description="drop: rows that match go. keep: rows that do not match go. Default: drop."
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        # Not in CEL, whose regular expressions are others.
        return (
            Rule(
                "the pattern is not a regular expression of Python",
                lambda rule: _compiles(rule.pattern),
                field="pattern",
            ),
        )


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


class Cleaning(Model):
    """What happens to rows before training."""

    min_rows: int = Field(
        default=100, ge=1, description="Fewer kept rows than this fail a job that trains. Default: 100."
    )
    bad_rows: BadRowsPolicy = BadRowsPolicy()
    non_text: Literal["json", "fail"] = Field(
        default="json",
        description="Answers that are numbers, lists or objects: json writes them as JSON, fail takes them as bad "
        "rows. Default: json.",
    )
    encoding: Literal["repair", "keep"] = Field(
        default="repair",
        description="repair: text that was decoded with a wrong encoding is repaired where it can be, rows that have "
        "lost characters (U+FFFD) are dropped, and characters are composed (NFC). Default: repair.",
    )
    control_characters: Literal["remove", "keep"] = Field(
        default="remove",
        description="Control characters beside tab and line ends, escape sequences of terminals, and characters that "
        "are not seen. Default: remove.",
    )
    secrets: Literal["redact", "drop", "keep"] = Field(
        default="redact",
        description="API keys, access tokens, private keys and passwords: redact replaces each by its kind. No report "
        "shows them. Default: redact.",
    )
    pii: Literal["report", "redact", "drop", "keep"] = Field(
        default="report",
        description="E-mail addresses, phone numbers, card and account numbers, and Korean and US personal numbers. "
        "report counts the rows; redact replaces each by its kind. Names and addresses are not found. Default: report.",
    )
    row_rules: list[RowRule] = Field(default=[], max_length=32, description="Rules of your own. Default: none.")
    placeholders: Literal["drop", "keep"] = Field(
        default="drop", description="Rows with an answer such as TODO, N/A or [insert answer]. Default: drop."
    )
    refusals: Literal["drop", "keep"] = Field(
        default="drop",
        description='Rows whose answer refuses ("As an AI language model, I cannot ..."). Keep them if the model is '
        "to learn to refuse. Default: drop.",
    )
    languages: list[str] = Field(
        default=[],
        max_length=32,
        description="Rows in other languages are dropped: codes of ISO 639-1, such as [en, ko]. Very short rows and "
        "code pass. Default: all languages pass, without a look.",
    )
    exact_duplicates: Literal["drop", "keep"] = Field(
        default="drop",
        description="Rows that differ in nothing but case and white space; the first one is kept. Default: drop.",
    )
    conflicting_answers: Literal["drop", "keep"] = Field(
        default="drop",
        description="Rows that answer a question of an earlier row otherwise. Keep them if several answers to one "
        "question are wanted. Default: drop.",
    )
    near_duplicates: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="Rows that share this much of their words and pairs of words (Jaccard), and have the same numbers, "
        "with an earlier row are dropped. 0 keeps them. Default: 0.85.",
    )
    leakage: Literal["drop", "keep"] = Field(
        default="drop",
        description="Training rows that are nearly in validation too: by nearDuplicates, or by half of their sequences "
        "of 13 words. Default: drop.",
    )
    min_trained_answers: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="A smaller trained share of the assistant's answers fails the job: a chat template may leave "
        "answers out, and training.maxLength may cut them off. Default: 0.9.",
    )
    max_length: Literal["truncate", "drop", "fail"] = Field(
        default="drop",
        description="What happens to rows longer than training.maxLength tokens; plain text is cut into pieces. "
        "Default: drop.",
    )
    min_trained_tokens: int = Field(
        default=1, ge=1, le=1048576, description="Rows with fewer tokens that are trained are dropped. Default: 1."
    )


class Dataset(Model):
    train: list[DataSource] = Field(
        default=[], min_length=1, max_length=32, description="The training rows; where nothing is tuned, optional."
    )
    validation: ValidationSource = Field(
        default=ValidationSource(fraction=0.05), description="Default: 5 % of the training rows."
    )
    clean: Cleaning = Cleaning()
    replay: Replay | None = Field(
        default=None, description="Mixes general rows in, against forgetting. {} takes all defaults. Default: none."
    )
