"""Reads the tensors of the layer that comes next while a GPU computes one."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final

import torch

Read = Callable[[], torch.Tensor]

THREADS: Final = 8
"""That read side by side: one alone copies some 2 GB a second out of the kernel's cache, a GPU takes ten times that."""


class ReadAhead:
    """Layers of tensors that are used one after the other, forwards or backwards.

    Two layers are in memory: the one that is used, and the next one in the direction of the last two, which turns at
    the ends.
    """

    def __init__(self) -> None:
        self._layers: list[Sequence[Read]] = []
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read-ahead")
        self._reading: dict[int, list[Future[torch.Tensor]]] = {}
        self._at = -1

    def layer(self, reads: Sequence[Read]) -> list[Read]:
        """Adds a layer behind the others; returns what its tensors are to be read with."""
        self._layers.append(reads)
        return [partial(self._tensor, len(self._layers) - 1, index) for index in range(len(reads))]

    def _tensor(self, layer: int, index: int) -> torch.Tensor:
        if layer != self._at:
            step = 1 if layer > self._at else -1
            following = layer + step if 0 <= layer + step < len(self._layers) else layer - step
            self._at = layer
            wanted = {layer, following} & set(range(len(self._layers)))
            self._reading = {number: self._reading.get(number) or self._start(number) for number in sorted(wanted)}
        return self._reading[layer][index].result()

    def _start(self, layer: int) -> list[Future[torch.Tensor]]:
        return [self._pool.submit(read) for read in self._layers[layer]]
