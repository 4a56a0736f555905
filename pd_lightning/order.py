"""The order of states: a pure function of numbers, without files, clock or rank.

In every epoch the blocks are permuted and cut into windows of equal size, as few as memory allows, and within a window
all states are permuted; if everything fits there is one window, and an epoch is a perfect shuffle. The epoch's states,
in that order, are cut into ``ceil(states / batch_size)`` batches whose sizes differ by at most one: every state once
per epoch, no padding, no odd batch at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

ORDER_SEEDS = 5
"""First part of the key of everything that is shuffled."""


def permutation(count: int, seed: int, *key: int) -> np.ndarray:
    """0 to `count` - 1, shuffled by a chance that is the key's own, int64 [count].

    By sorting raw bits: those stay the same in all releases of numpy, `Generator.permutation` may change.
    """
    words = (ORDER_SEEDS, len(key), seed, *key)  # numpy fills short keys up with zeros, hence their length
    return np.argsort(np.random.PCG64(np.random.SeedSequence(words)).random_raw(count), kind="stable")


def split_episodes(episodes: Sequence[int], share: float, seed: int) -> list[np.ndarray]:
    """Which episodes of each shard are held out for validation; never single states, since neighbours are alike.

    Args:
        episodes: number of episodes of each shard.
        share: how much to hold out, 0 to 1; 0 is none, anything else at least one episode of all.
        seed: of the choice.

    Returns:
        A bool array [E] for each shard, true for validation.

    Raises:
        ValueError: nothing would be left to learn from.

    >>> [held.sum() for held in split_episodes([10, 10], 0.1, seed=0)]
    [np.int64(2), np.int64(0)]
    """
    if not 0 <= share < 1:
        raise ValueError(f"validation is {share}: choose a share of the episodes from 0 to less than 1")
    total = sum(episodes)
    count = max(1, round(share * total)) if share else 0
    if count >= total:
        raise ValueError(f"holding out {count} of {total} episodes leaves none to learn from: record more, or set 0")
    held = np.zeros(total, bool)
    held[permutation(total, seed)[:count]] = True
    return np.split(held, np.cumsum(episodes)[:-1])


class Order:
    """The sequence of states of every epoch, and where its batches begin. Pure: no files, no clock, no rank.

    Args:
        lengths: steps in each block, int64 [N].
        batch_size: most states in a batch, over all ranks.
        seed: of the shuffling.
        window: most blocks that are shuffled together.
        shuffle: False is the recorded order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, window: int, shuffle: bool = True) -> None:
        self.lengths, self.seed, self.shuffle = lengths, seed, shuffle
        self.windows = -(-len(lengths) // window)
        self.window = -(-len(lengths) // self.windows)
        states = int(lengths.sum())
        self.batches = -(-states // batch_size)
        self.bounds = states * np.arange(self.batches + 1) // self.batches
        # Both what is learned from and what is being read ahead. Caches are this object's own, and go with it.
        self._epoch = lru_cache(2)(self._permute)
        self.states = lru_cache(2)(self._states)

    def _permute(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's blocks in order, and how many states come before each window."""
        count = len(self.lengths)
        blocks = permutation(count, self.seed, epoch) if self.shuffle else np.arange(count)
        sizes = np.add.reduceat(self.lengths[blocks], np.arange(0, len(blocks), self.window))
        return blocks, np.concatenate([[0], np.cumsum(sizes)])

    def blocks(self, epoch: int, window: int) -> np.ndarray:
        """The blocks of a window, int64."""
        return self._epoch(epoch)[0][window * self.window : (window + 1) * self.window]

    def _states(self, epoch: int, window: int) -> np.ndarray:
        """Block and step of every state of a window in the order in which they are learned from, int64 [n, 2]."""
        blocks = self.blocks(epoch, window)
        lengths = self.lengths[blocks]
        steps = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        pairs = np.stack([np.repeat(blocks, lengths), steps], 1)
        if self.shuffle:
            pairs = pairs[permutation(len(pairs), self.seed, epoch, window)]
        pairs.flags.writeable = False  # shared by everybody who asks
        return pairs

    def parts(self, epoch: int, low: int, high: int) -> Iterator[tuple[int, slice]]:
        """Windows, and the places in them, of the states from `low` to `high` of an epoch."""
        starts = self._epoch(epoch)[1]
        for window in range(int(np.searchsorted(starts, low, "right")) - 1, self.windows):
            if starts[window] >= high:
                return
            yield window, slice(max(low - starts[window], 0), min(high, starts[window + 1]) - starts[window])
