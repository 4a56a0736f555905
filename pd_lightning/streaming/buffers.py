"""The memory of batches, which a stream gathers into."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np

from pd_lightning.blocks import CHUNK, STACK


def references(buffers: Iterable[np.ndarray]) -> list[int]:
    """How many references each has; which of them are this function's own differs between versions of Python."""
    return [sys.getrefcount(buffer) for buffer in buffers]


(FREE,) = references([np.empty(0)])
"""Those of a buffer that nothing knows but the list it is in."""


class BufferPool:
    """Memory for batches, used again once nobody holds the batch that was in it.

    Fresh memory for every batch costs ten times the gather (page faults), and a ring that is simply overwritten would
    change batches under the feet of whoever keeps one.
    """

    def __init__(self) -> None:
        self._buffers: list[np.ndarray] = []

    def take(self, count: int) -> np.ndarray:
        """uint8 [count, 4, 84, 84], uninitialised."""
        for number, held in enumerate(references(self._buffers)):
            if held == FREE and len(self._buffers[number]) >= count:  # what is made of it holds the buffer
                return self._buffers[number][:count]
        # Those that are too small are let go: a stream's batches differ by one, so that is soon over.
        self._buffers = [buffer for buffer in self._buffers if len(buffer) >= count]
        self._buffers.append(np.empty((count, STACK, *CHUNK[1:]), np.uint8))
        return self._buffers[-1][:]
