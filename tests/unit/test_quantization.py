"""Artifact formats and the shapes that they fit."""

import pytest

from tuneyard_api.registry import ARTIFACT_FORMATS
from tuneyard_trainer.exporters import check_formats, format_of
from tuneyard_trainer.exporters.formats.gptq import group_size
from tuneyard_trainer.model.check import ModelShape
from tuneyard_trainer.runtime.errors import BadInput


@pytest.mark.parametrize(
    ("columns", "size"),
    [
        ([4096, 14336], 128),
        ([576, 1536], 64),  # SmolLM2-135M
        ([96, 1536], 32),
        ([100, 4096], None),
        ([16], None),
    ],
)
def test_group_size(columns: list[int], size: int | None) -> None:
    assert group_size(columns) == size


def test_gptq_misfit() -> None:
    message = format_of("gptq").misfit(ModelShape((4096, 100)))
    assert message is not None
    assert "divisible by 32" in message
    assert "100" in message
    assert "4096" not in message


def test_int8_and_bf16_fit_every_shape() -> None:
    assert format_of("int8").misfit(ModelShape((100,))) is None
    assert format_of("bf16").misfit(ModelShape((100,))) is None


def test_check_formats() -> None:
    check_formats(ARTIFACT_FORMATS, ModelShape((4096,)), "s3://models/a")
    check_formats(ARTIFACT_FORMATS, ModelShape(), "s3://models/a")  # unknown shapes
    with pytest.raises(BadInput, match=r"s3://models/a.*Remove gptq from export\.formats"):
        check_formats(ARTIFACT_FORMATS, ModelShape((100,)), "s3://models/a")
