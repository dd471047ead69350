"""spec.export of a FineTuneJob: the artifacts that are made, and the rows that quantizers are shown."""

from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from tuneyard_api.base import Model, S3Uri
from tuneyard_api.kinds.dataset import COLUMNS, IGNORE, DataSource
from tuneyard_api.registry import ARTIFACT_FORMATS, DATA_FORMATS, LADDERS, OneOf, described
from tuneyard_api.rules import Obeys, Rule


class Calibration(Model):
    """The rows that quantizers are shown: a sample of the training rows, or of a uri where the job has none."""

    samples: int = Field(default=256, ge=1, le=4096, description="Rows shown to the quantizer. Default: 256.")
    max_length: int = Field(default=1024, ge=8, le=32768, description="Tokens per row. Default: 1024.")
    uri: S3Uri | None = Field(
        default=None, description="Rows for a job without training rows: data files, as in dataset.train."
    )
    format: Annotated[str, OneOf(DATA_FORMATS, "auto")] | None = Field(
        default=None, description="Row format of the uri, as in dataset.train. Default: auto."
    )
    columns: dict[str, str] | None = Field(default=None, description=COLUMNS)
    ignore: list[str] | None = Field(default=None, max_length=64, description=IGNORE)

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "format, columns and ignore say how the rows of calibration.uri are read: write a uri too",
                lambda calibration: calibration.uri is not None
                or (calibration.format, calibration.columns, calibration.ignore) == (None, None, None),
                cel="has(self.uri) || !(has(self.format) || has(self.columns) || has(self.ignore))",
            ),
        )

    @property
    def source(self) -> DataSource | None:
        """The source of the rows, if they are not a part of the training rows."""
        if self.uri is None:
            return None
        return DataSource(uri=self.uri, format=self.format or "auto", columns=self.columns, ignore=self.ignore or [])


# The API server checks the same of a list of type set.
NO_DUPLICATES: Final = Rule("a format stands here twice: write each once", lambda items: len(set(items)) == len(items))
STANDS_ALONE: Final = Rule(
    f"{' and '.join(LADDERS)} choose among several formats by themselves: write one of them alone",
    lambda items: len(items) == 1 or not set(items) & LADDERS.keys(),
    cel=f"size(self) == 1 || !self.exists(name, name in {list(LADDERS)})",
)


class Export(Model):
    formats: Annotated[list[Annotated[str, OneOf(ARTIFACT_FORMATS, *LADDERS)]], Obeys(NO_DUPLICATES, STANDS_ALONE)] = (
        Field(
            default=["bf16"],
            min_length=1,
            max_length=16,
            description=f"{described(ARTIFACT_FORMATS)} {described(LADDERS)} Default: [bf16].",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        )
    )
    calibration: Calibration = Calibration()

    @property
    def ladder(self) -> str | None:
        """The name of the ladder that is climbed; None: the formats are listed."""
        return next((name for name in self.formats if name in LADDERS), None)

    @property
    def levels(self) -> Sequence[str]:
        """The artifact formats that are asked for: those of the ladder, smallest first, or those that are listed."""
        return LADDERS[self.ladder].rungs if self.ladder else self.formats
