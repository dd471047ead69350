"""spec.dataset of a FineTuneJob: where rows come from, how they are read, and how they are cleaned."""

from typing import Annotated, Final, Literal

from pydantic import Field

from tuneyard_api.base import Model, S3Uri
from tuneyard_api.registry import DATA_FORMATS, OneOf, described
from tuneyard_api.rules import Rule

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


class BadRowsPolicy(Model):
    """What happens to rows that cannot be used: no JSON, no answer, an unknown field that means something, ..."""

    policy: Literal["drop", "fail"] = Field(
        default="drop", description="drop counts them and writes them to dropped.jsonl. Default: drop."
    )
    max_fraction: float = Field(
        default=0.1, ge=0, le=1, description="More bad rows than this share of all rows fail the job. Default: 0.1."
    )


class Cleaning(Model):
    min_rows: int = Field(
        default=100, ge=1, description="Fewer kept rows than this fail a job that trains. Default: 100."
    )
    bad_rows: BadRowsPolicy = BadRowsPolicy()
    non_text: Literal["json", "fail"] = Field(
        default="json",
        description="Answers that are numbers, lists or objects: json writes them as JSON, fail takes them as bad "
        "rows. Default: json.",
    )
    exact_duplicates: Literal["drop", "keep"] = Field(default="drop", description="Default: drop.")
    min_trained_answers: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="A smaller trained share of the assistant's answers fails the job: a chat template may leave "
        "answers out, and training.maxLength may cut them off. Default: 0.9.",
    )
    max_length: Literal["truncate", "drop", "fail"] = Field(
        default="drop", description="What happens to rows longer than training.maxLength tokens. Default: drop."
    )


class Dataset(Model):
    train: list[DataSource] = Field(
        default=[], min_length=1, max_length=32, description="The training rows; where nothing is tuned, optional."
    )
    validation: ValidationSource = Field(
        default=ValidationSource(fraction=0.05), description="Default: 5 % of the training rows."
    )
    clean: Cleaning = Cleaning()
