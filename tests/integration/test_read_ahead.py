"""The layer that comes next is read while one is used, in both directions, and no more than that."""

import threading
from functools import partial

import torch

from tuneyard_trainer.weights.read_ahead import Read, ReadAhead

LAYERS = 6


def test_the_next_layer_is_read_in_the_direction_of_the_use() -> None:
    done: list[tuple[int, int]] = []
    changed = threading.Condition()

    def read(layer: int, index: int) -> torch.Tensor:
        with changed:
            done.append((layer, index))
            changed.notify_all()
        return torch.tensor([layer, index])

    ahead = ReadAhead()
    layers: list[list[Read]] = [
        ahead.layer([partial(read, layer, index) for index in range(2)]) for layer in range(LAYERS)
    ]
    assert not done, "nothing is read before the first layer is used"
    expected = [0, 1]
    forwards, backwards = list(range(LAYERS)), list(reversed(range(LAYERS)))
    for direction, way in ((1, forwards), (-1, backwards), (1, forwards)):
        for layer in way:
            assert [one().tolist() for one in layers[layer]] == [[layer, 0], [layer, 1]]
            if layer != way[0] and 0 <= layer + direction < LAYERS:
                expected.append(layer + direction)
            with changed:
                assert changed.wait_for(lambda: len(done) >= 2 * len(expected), timeout=10)
            assert sorted(done) == sorted((number, index) for number in expected for index in range(2))
    assert len(ahead._reading) == 2
