"""Which formats fit which shapes."""

import pytest

from tuneyard_api.registry import ARTIFACT_FORMATS
from tuneyard_trainer.exporters.llmcompressor import QUANTIZATIONS, misfit
from tuneyard_trainer.exporters.llmcompressor.gptq import group_size


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
def test_the_group_size_follows_from_the_shapes(columns: list[int], size: int | None) -> None:
    assert group_size(columns) == size


def test_a_model_that_gptq_does_not_fit_is_told_why() -> None:
    message = misfit("gptq", [4096, 100])
    assert message is not None
    assert "divisible by 32" in message
    assert "100" in message
    assert "4096" not in message


def test_int8_and_bf16_fit_every_shape() -> None:
    assert misfit("int8", [100]) is None
    assert misfit("bf16", [100]) is None


def test_every_format_of_the_api_can_be_made() -> None:
    assert set(ARTIFACT_FORMATS) == {"bf16", *QUANTIZATIONS}
