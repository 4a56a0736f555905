"""Decoded blocks in memory, and the memory of batches: what a stream gathers from, and into.

Frames are read by threads around libhdf5's lock, and copied once, by one gather a batch.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pd_lightning.blocks import CHUNK, STACK, Shard


class Blocks:
    """Some blocks of a game's shards as one sequence, numbered from 0.

    Args:
        shards: of one game.
        chosen: shard and block of each, int64 [N, 2].
    """

    def __init__(self, shards: Sequence[Shard], chosen: np.ndarray) -> None:
        self.shards, self.chosen = list(shards), chosen
        self.lengths = np.array([shards[s].lengths[b] for s, b in chosen], np.int64)
        self.q_values = np.stack([shards[s].q_values[b] for s, b in chosen])  # [N, L, A]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def states(self) -> int:
        """Number of states in all blocks."""
        return int(self.lengths.sum())

    def read(self, block: int, out: np.ndarray) -> None:
        """Decodes a block's frames into `out`, uint8 [L + 3, 84, 84]; safe from several threads.

        Raises:
            ShardError: the bytes on disk are not those that were recorded.
        """
        shard, number = self.chosen[block]
        self.shards[shard].read_block(int(number), out)


class Window:
    """Decoded blocks in memory: filled by threads, read by one gather a batch.

    Args:
        capacity: blocks that it holds.
    """

    def __init__(self, capacity: int) -> None:
        self.frames = np.empty((capacity, *CHUNK), np.uint8)
        self.slot = np.empty(0, np.int64)
        self.order = np.empty((0, 2), np.int64)

    def fill(self, blocks: Blocks, chosen: np.ndarray, threads: ThreadPoolExecutor, ways: int) -> None:
        """Decodes the blocks `chosen`; each thread takes every `ways`-th."""
        self.slot = np.full(len(blocks), -1, np.int64)
        self.slot[chosen] = np.arange(len(chosen))

        def work(way: int) -> None:
            for place in range(way, len(chosen), ways):
                blocks.read(int(chosen[place]), self.frames[place])

        for done in [threads.submit(work, way) for way in range(ways)]:
            done.result()

    def gather(self, ids: np.ndarray, out: np.ndarray) -> None:
        """Copies the states `ids` (block and step, int64 [n, 2]) to `out`, uint8 [n, 4, 84, 84]."""
        rows = self.slot[ids[:, 0]] * CHUNK[0] + ids[:, 1]
        flat = self.frames.reshape(-1, CHUNK[1] * CHUNK[2])
        rows = (rows[:, None] + np.arange(STACK)).ravel()
        # mode="clip": numpy then writes straight to `out`, without a buffer in between
        np.take(flat, rows, axis=0, out=out.reshape(len(rows), -1), mode="clip")


class BufferPool:
    """Memory for batches, used again once nobody holds the batch that was in it.

    Fresh memory for every batch costs ten times the gather (page faults), and a ring that is simply overwritten would
    change batches under the feet of whoever keeps one.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, count: int) -> Tensor:
        """uint8 [count, 4, 84, 84], uninitialised."""
        buffer = self._free.pop() if self._free else np.empty(0, np.uint8)
        if len(buffer) < count:
            buffer = np.empty((count, STACK, *CHUNK[1:]), np.uint8)
        lent = buffer[:count]
        # The tensor keeps `lent` alive, and every view of the tensor keeps the tensor's memory.
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return torch.from_numpy(lent)
