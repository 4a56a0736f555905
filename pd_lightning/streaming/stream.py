"""One game's batches: blocks are read into a window, batches are gathered from it, and it can resume.

A dataset that fits the memory it is given is decoded once. A larger one flows through: threads read ahead what comes
next, while batches are taken from what is there. Each rank takes its share of every batch (the order knows no ranks),
so all ranks together see the same sequence whatever their number, and none waits for one that has more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pd_lightning.blocks import BLOCK, Shard
from pd_lightning.streaming.device import DeviceWindow, to_device
from pd_lightning.streaming.order import Order, Reach, split_episodes
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.source import Decoded, Epochs, Sliding, memory_of, read_ahead, variety
from pd_lightning.streaming.window import Window


class Batch(NamedTuple):
    """One game's share of a batch.

    Attributes:
        states: uint8 [B, 4, 84, 84].
        teacher_q: float32 [B, A].
    """

    states: Tensor
    teacher_q: Tensor


def new_workers(threads: int = 0) -> ThreadPoolExecutor:
    """Threads that read and decode; 0 is one for every core but the caller's, 1 to 4. They end when nobody has them."""
    return ThreadPoolExecutor(threads or min(max((os.cpu_count() or 1) - 1, 1), 4), "stream")


class Stream:
    """One game's batches, without end, by their numbers.

    Args:
        blocks: what to learn from.
        batch_size: most states in a batch, over all ranks.
        seed: of the shuffling.
        reach: see `choose_reach`; None needs memory for all blocks.
        rank: this process.
        ranks: all processes.
        shuffle: False gives the recorded order, for validation; it needs memory for three batches.
        workers: threads that read and decode, which streams may share; None is some of its own, see `new_workers`.
        device: where the window and the batches are; a CPU or a GPU.

    Attributes:
        order: what is in which batch.

    Raises:
        ValueError: a batch would have fewer states than there are ranks.
    """

    def __init__(
        self,
        blocks: Blocks,
        batch_size: int,
        seed: int,
        reach: Reach | None = None,
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
        workers: ThreadPoolExecutor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank is {rank}: it must be one of 0 to {ranks - 1}")
        self.order = Order(blocks.lengths, batch_size, seed, reach, shuffle)
        if (least := int(np.diff(self.order.bounds).min())) < ranks:
            raise ValueError(
                f"{Path(blocks.shards[0].path).parent}: {blocks.states:,} states in batches of {batch_size} leave one "
                f"with {least}, for {ranks} devices: raise --data.batch_size, or the weight of this game"
            )
        self.blocks, self.batch_size, self.rank, self.ranks = blocks, batch_size, rank, ranks
        self.device = torch.device(device)
        self._on_host = self.device.type == "cpu"
        self._workers = workers or new_workers()
        self._epochs = Epochs(self.order, self._workers)
        self._bounds: list[int] = self.order.bounds.tolist()
        self._source: Decoded | Sliding | None = None  # memory is taken when the first batch is

    def __len__(self) -> int:
        """Batches in an epoch, on every rank."""
        return self.order.batches

    def ids(self, number: int) -> np.ndarray:
        """Block and step of each state of this rank's share of a batch, int32 [B, 2], without reading any."""
        epoch, low, high = self._share(number)
        return np.stack(np.divmod(self._epochs[epoch].rows[low:high], BLOCK), 1)

    def prepare(self, number: int) -> None:
        """Begins to work out the order that a batch needs: what takes longest before the first one."""
        self._epochs.ask(self._share(number)[0])

    def batch(self, number: int) -> Batch:
        """This rank's share of the `number`-th batch of all epochs.

        Raises:
            ShardError: a block of the recording is damaged, or a shard was changed since it was opened.
        """
        epoch, low, high = self._share(number)
        if self._source is None:
            self._open()
        assert self._source is not None
        room = self._window.room(high - low)
        rows = self._source.gather(epoch, low, high, room)
        if self._on_host:
            teacher_q = torch.from_numpy(self._q_values.take(rows, axis=0))
        else:
            teacher_q = self._q_on_device.index_select(0, to_device(rows.astype(np.int64), self.device))
        return Batch(self._window.tensor(room), teacher_q)

    def _open(self) -> None:
        """Takes the memory that the stream was promised."""
        reach = self.order.reach
        if reach is None:
            slots = len(self.blocks)
        elif self.order.shuffle:
            slots = reach.window + read_ahead(reach, self.batch_size)
        else:  # one batch that is gathered, and two that are read meanwhile
            slots = reach.window + 3 * -(-self.batch_size // BLOCK)
        steps = BLOCK if reach is None else reach.piece
        flat = self.blocks.q_values.reshape(len(self.blocks) * BLOCK, -1)
        if self._on_host:
            self._window, self._q_values = Window(self.blocks, slots, steps, self._workers), flat
        else:
            self._window = DeviceWindow(self.blocks, slots, steps, self._workers, self.device)
            self._q_on_device = torch.from_numpy(flat).to(self.device)
        if reach is None:
            self._source = Decoded(self._epochs, self._window)
        else:
            self._source = Sliding(self.order, self._epochs, self._window)

    def close(self) -> None:
        """Gives its memory back; the next batch would take it anew."""
        if self._source is not None:
            self._window.clear()
            self._source = None
            del self._window
            if not self._on_host:
                del self._q_on_device
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # torch would keep it for the next who asks, and it would not count as free

    def _share(self, number: int) -> tuple[int, int, int]:
        """Epoch of a batch, and which of the epoch's states this rank takes of it."""
        epoch, i = divmod(number, self.order.batches)
        if 2 * i > self.order.batches:
            self._epochs.ask(epoch + 1)
        low, high = self._bounds[i], self._bounds[i + 1]
        size = high - low
        return epoch, low + size * self.rank // self.ranks, low + size * (self.rank + 1) // self.ranks


def held_out(shards: Sequence[Shard], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks to learn from and blocks to validate on, as shard and block, int64 [N, 2] each; split by episode."""
    try:
        held = split_episodes([len(shard.returns) for shard in shards], share, seed)
    except ValueError as error:
        raise ValueError(f"{Path(shards[0].path).parent}: {error}") from None
    blocks = np.concatenate(
        [np.stack([np.full(shard.n_blocks, i), np.arange(shard.n_blocks)], 1) for i, shard in enumerate(shards)]
    )
    validation = np.concatenate([held[i][shard.episodes] for i, shard in enumerate(shards)])
    return blocks[~validation], blocks[validation]


def describe(stream: Stream) -> str:
    """How a stream keeps a recording in memory, and how well it shuffles it."""
    reach, states = stream.order.reach, f"{stream.blocks.states:,} states"
    room = memory_of(stream.blocks, stream.batch_size, reach) / 2**30
    if reach is None:
        return f"{states}, decoded once into {room:.2f} GiB, shuffled perfectly"
    share = variety(reach, stream.batch_size)
    return f"{states} flow through {room:.2f} GiB, a batch has {share:.0%} of the variety of a perfect shuffle"
