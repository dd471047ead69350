"""Steps, micro batches and the order of the rows."""

from collections import Counter

import pytest

from tuneyard_api.kinds.finetunejob import TrainingResources
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.backends.schedule import micro_batch_size, row_order, total_steps
from tuneyard_trainer.runtime.errors import BadInput


@pytest.mark.parametrize(
    ("spec", "rows", "steps"),
    [
        ({}, 160, 30),  # three epochs of ten steps
        ({"epochs": 1}, 161, 11),  # the last rows are not left out
        ({"epochs": 0.5}, 160, 5),
        ({"epochs": 0.01}, 20, 1),
        ({"maxSteps": 7}, 1_000_000, 7),
        ({"epochs": 2, "effectiveBatchSize": 1}, 3, 6),
    ],
)
def test_total_steps(spec: dict[str, object], rows: int, steps: int) -> None:
    assert total_steps(Training.model_validate(spec), rows) == steps


@pytest.mark.parametrize(
    ("effective", "micro", "devices", "expected"),
    [(16, None, 1, 8), (12, None, 1, 4), (7, None, 1, 1), (16, 2, 1, 2), (16, None, 4, 4), (8, None, 8, 1)],
)
def test_micro_batch_size(effective: int, micro: int | None, devices: int, expected: int) -> None:
    training = Training(effective_batch_size=effective, micro_batch_size=micro)
    assert micro_batch_size(training, devices) == expected


def test_devices() -> None:
    assert [TrainingResources(nodes=nodes, gpus=gpus).devices for nodes, gpus in ((1, 0), (3, 0), (1, 8), (3, 8))] == [
        1,
        3,
        8,
        24,
    ]


@pytest.mark.parametrize(("effective", "micro", "devices"), [(16, 3, 1), (16, 8, 4), (6, None, 4)])
def test_indivisible_batch(effective: int, micro: int | None, devices: int) -> None:
    with pytest.raises(BadInput, match="effectiveBatchSize"):
        micro_batch_size(Training(effective_batch_size=effective, micro_batch_size=micro), devices)


def test_epochs_are_shuffled() -> None:
    order = row_order([5] * 12, steps=6, batch=4, seed=1)
    first, second = order[:12], order[12:]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_batch_may_span_two_epochs() -> None:
    order = row_order([5] * 5, steps=3, batch=4, seed=1)
    assert len(order) == 12
    assert sorted(Counter(order).values()) == [2, 2, 2, 3, 3]


def test_order_depends_on_the_seed() -> None:
    lengths = [3, 1, 2, 9, 4, 7]
    assert row_order(lengths, 4, 3, seed=7) == row_order(lengths, 4, 3, seed=7)
    assert row_order(lengths, 4, 3, seed=7) != row_order(lengths, 4, 3, seed=8)


def test_order_is_a_prefix_of_a_longer_run() -> None:
    lengths = list(range(10))
    assert row_order(lengths, 9, 4, seed=3)[:12] == row_order(lengths, 3, 4, seed=3)


def test_rows_of_a_step_are_sorted_by_length() -> None:
    lengths = [10, 90, 20, 80, 30, 70, 40, 60]
    order = row_order(lengths, steps=1, batch=8, seed=0)
    assert [lengths[row] for row in order] == sorted(lengths, reverse=True)


def test_micro_batches_of_rows_end_to_end_have_about_the_same_tokens() -> None:
    lengths = [900, 10, 800, 20, 700, 30, 600, 40, 500, 50, 400, 60]
    order = row_order(lengths, steps=1, batch=12, seed=0, micro_batches=3)
    tokens = [sum(lengths[row] for row in order[start : start + 4]) for start in (0, 4, 8)]
    assert sorted(order) == list(range(12))
    assert max(tokens) - min(tokens) < 0.1 * max(tokens)


def test_micro_batches_have_the_same_number_of_rows() -> None:
    order = row_order([1000, 1, 1, 1], steps=1, batch=4, seed=0, micro_batches=2)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2, 3]
