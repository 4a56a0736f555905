"""The memory of batches, which a stream gathers into."""

from __future__ import annotations

import sys

import numpy as np

from pd_lightning.blocks import CHUNK, STACK


class BufferPool:
    """Memory for batches, used again once nobody holds the batch that was in it.

    Fresh memory for every batch costs ten times the gather (page faults), and a ring that is simply overwritten would
    change batches under the feet of whoever keeps one.
    """

    def __init__(self) -> None:
        self._buffers: list[np.ndarray] = []

    def take(self, count: int) -> np.ndarray:
        """uint8 [count, 4, 84, 84], uninitialised."""
        for buffer in self._buffers:
            # What was made of it holds the buffer: nobody has it if it is known by this list, this variable and this
            # call alone.
            if len(buffer) >= count and sys.getrefcount(buffer) == 3:
                return buffer[:count]
        # Those that are too small are let go: a stream's batches differ by one, so that is soon over.
        self._buffers = [buffer for buffer in self._buffers if len(buffer) >= count]
        self._buffers.append(np.empty((count, STACK, *CHUNK[1:]), np.uint8))
        return self._buffers[-1][:]
