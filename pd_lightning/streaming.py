"""Which state goes into which batch: blocks are read into a window, batches are gathered from it, and it can resume.

A dataset that fits the memory it is given is one window, decoded once. Otherwise the next window is read by threads
while batches are taken from this one. Each rank takes its share of every batch (the order, `pd_lightning.order`,
knows no ranks), so all ranks together see the same sequence whatever their number, and none waits for one that has
more.

    python -m pd_lightning.streaming order datasets --games pong --batch_size 256 --ranks 2 --rank 0 --epoch 3
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jsonargparse import auto_cli
from torch import Tensor

from pd_lightning.blocks import CHUNK, Shard, find_shards
from pd_lightning.order import Order, split_episodes
from pd_lightning.window import Blocks, BufferPool, Window


class Batch(NamedTuple):
    """One game's share of a batch.

    Attributes:
        states: uint8 [B, 4, 84, 84].
        teacher_q: float32 [B, A].
    """

    states: Tensor
    teacher_q: Tensor


class Stream:
    """One game's batches, without end: a number of batches at a time, going on where it stopped.

    Args:
        blocks: what to learn from.
        batch_size: most states in a batch, over all ranks.
        seed: of the shuffling.
        memory: bytes that decoded frames may take.
        rank: this process.
        ranks: all processes.
        shuffle: False gives the recorded order, for validation.
        threads: that read and decode; 0 is one for every core, at most 4.

    Attributes:
        batches_given: how many were given so far, over all epochs; set it to resume.

    Raises:
        ValueError: the batch does not divide by the ranks, memory is too small, or there are fewer states than ranks.
    """

    def __init__(
        self,
        blocks: Blocks,
        batch_size: int,
        seed: int,
        memory: int,
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
        threads: int = 0,
    ) -> None:
        if batch_size < 1 or batch_size % ranks:
            raise ValueError(f"batch_size is {batch_size}: it must be a multiple of the number of devices, {ranks}")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank is {rank}: it must be one of 0 to {ranks - 1}")
        size = int(np.prod(CHUNK))
        fits = len(blocks) * size <= memory
        window = len(blocks) if fits else memory // size // 2  # half is read while the other half is learned from
        if window < 1:
            raise ValueError(f"memory is {memory} bytes: it must hold at least two blocks, {2 * size} bytes")
        self.order = Order(blocks.lengths, batch_size, seed, window, shuffle)
        if np.diff(self.order.bounds).min() < ranks:
            raise ValueError(f"there are only {blocks.states} states: too few for {ranks} devices")
        self.blocks, self.rank, self.ranks = blocks, rank, ranks
        self.batches_given = 0
        self._ways = threads or min(os.cpu_count() or 1, 4)
        self._windows: dict[tuple[int, int], Future[Window]] = {}
        self._spare: list[Window] = []
        self._pool = BufferPool()
        self._threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None

    def __len__(self) -> int:
        """Batches in an epoch, on every rank."""
        return self.order.batches

    def __iter__(self) -> Iterator[Batch]:
        """As many batches as an epoch has, from where the last iteration stopped."""
        for _ in range(len(self)):
            number = self.batches_given
            self.batches_given += 1
            yield self.batch(number)

    def ids(self, number: int) -> np.ndarray:
        """Block and step of each state of this rank's share of a batch, int64 [B, 2], without reading any."""
        epoch, low, high = self._share(number)
        return np.concatenate([self.order.states(epoch, w)[part] for w, part in self.order.parts(epoch, low, high)])

    def batch(self, number: int) -> Batch:
        """This rank's share of the `number`-th batch of all epochs."""
        epoch, low, high = self._share(number)
        states = self._pool.take(high - low)
        pixels = states.numpy()
        teacher_q = np.empty((high - low, self.blocks.q_values.shape[2]), np.float32)
        done = 0
        for w, part in self.order.parts(epoch, low, high):
            window = self._window(epoch, w)
            ids = window.order[part]
            window.gather(ids, pixels[done : done + len(ids)])
            teacher_q[done : done + len(ids)] = self.blocks.q_values[ids[:, 0], ids[:, 1]]
            done += len(ids)
        return Batch(states, torch.from_numpy(teacher_q))

    def _share(self, number: int) -> tuple[int, int, int]:
        """Epoch of a batch, and which of the epoch's states this rank takes of it."""
        epoch, i = divmod(number, self.order.batches)
        low, high = self.order.bounds[i : i + 2].tolist()
        size = high - low
        return epoch, low + size * self.rank // self.ranks, low + size * (self.rank + 1) // self.ranks

    def _window(self, epoch: int, w: int) -> Window:
        """A decoded window; starts reading the one after it."""
        following = (epoch, w + 1) if w + 1 < self.order.windows else (epoch + 1, 0)
        wanted = [(epoch, w)] if self.order.windows == 1 else [(epoch, w), following]
        for key in [key for key in self._windows if key not in wanted]:
            self._spare.append(self._windows.pop(key).result())
        for key in wanted:
            if key not in self._windows:
                window = self._spare.pop() if self._spare else Window(self.order.window)
                self._windows[key] = self._workers()[0].submit(self._load, window, *key)
        return self._windows[epoch, w].result()

    def _load(self, window: Window, epoch: int, w: int) -> Window:
        """Fills a window, unless it already holds the whole dataset."""
        whole = self.order.windows == 1
        if not whole or not len(window.slot):
            chosen = np.arange(len(self.blocks)) if whole else self.order.blocks(epoch, w)
            window.fill(self.blocks, chosen, self._workers()[1], self._ways)
        window.order = self.order.states(epoch, w)
        return window

    def _workers(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        """One thread that fills windows, and those that decode for it; they end with the stream."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "window"), ThreadPoolExecutor(self._ways, "decode")
        return self._threads


def held_out(shards: Sequence[Shard], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks to learn from and blocks to validate on, as shard and block, int64 [N, 2] each; split by episode."""
    held = split_episodes([len(shard.returns) for shard in shards], share, seed)
    blocks = np.concatenate(
        [np.stack([np.full(shard.n_blocks, i), np.arange(shard.n_blocks)], 1) for i, shard in enumerate(shards)]
    )
    validation = np.concatenate([held[i][shard.episodes] for i, shard in enumerate(shards)])
    return blocks[~validation], blocks[validation]


def order(
    root: str,
    games: str | list[str] = "pong",
    batch_size: int = 256,
    ranks: int = 1,
    rank: int = 0,
    epoch: int = 0,
    seed: int = 0,
    memory: float = 4.0,
    validation: float = 0.05,
) -> None:
    """Prints the states that a rank would see in an epoch: game, batch, shard, block, step; reads no frames.

    Args:
        root: folder of the datasets.
        games: which of them; `pong,breakout` and `[pong, breakout]` are the same.
        batch_size: states of each game in a batch, over all ranks.
        ranks: number of devices.
        rank: which of them.
        epoch: counted from 0.
        seed: of the shuffling.
        memory: GiB for decoded frames, over all games.
        validation: share of the episodes that is held out.
    """
    games = games.split(",") if isinstance(games, str) else games
    for game in games:
        shards = [Shard(path) for path in find_shards(Path(root) / game)]
        blocks = Blocks(shards, held_out(shards, validation, seed)[0])
        stream = Stream(blocks, batch_size, seed, int(memory * 2**30 / len(games)), rank, ranks)
        for i in range(len(stream)):
            for block, step in stream.ids(epoch * len(stream) + i):
                shard, number = blocks.chosen[block]
                print(game, i, Path(shards[shard].path).name, number, step)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        auto_cli({"order": order}, args=arguments, prog="python -m pd_lightning.streaming")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
