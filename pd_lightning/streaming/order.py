"""The order of states: a pure function of numbers, without files, clock or rank.

A perfect shuffle permutes all states of an epoch. It needs every state at hand, so where memory is short the shuffle is
a sliding one, over pieces of some consecutive steps: in every epoch the pieces are permuted and pass by, one per unit
of time, and each state of the i-th piece is drawn at a time of its own between i and i + W. So at any time a batch is
drawn evenly from the W pieces that passed last, and nothing else need be in memory. Time is a circle: what is drawn
after the last piece has passed belongs to the epoch's beginning, so that its batches are as mixed as any other::

    piece 3          |-- its states, each at its own time --|
    piece 4              |----------------------------------------|
    time             3 . 4 . 5 . . . . .  ->  . . . . . . . 3+W . 4+W

Either way the epoch's states, in their order, are cut into ``ceil(states / batch_size)`` batches whose sizes differ by
at most one: every state once per epoch, no padding, no odd batch at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pd_lightning.blocks import BLOCK

ORDER_SEEDS = 5
"""First part of the key of everything that is shuffled."""


def random_bits(count: int, seed: int, *key: int) -> np.ndarray:
    """Bits that are the key's own, uint64 [count].

    Raw bits stay the same in all releases of numpy; what `Generator` makes of them may change.
    """
    words = (ORDER_SEEDS, len(key), seed, *key)  # numpy fills short keys up with zeros, hence their length
    return np.random.PCG64(np.random.SeedSequence(words)).random_raw(count)


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the keys stand in ascending order, int64 [n], and the keys in that order without their lowest bits.

    Those bits, as many as numbering the keys takes, are given up to tell equal keys apart: so any sort gives the same,
    also the fastest (with vector instructions ten times faster than numpy's stable `argsort`).
    """
    numbers = np.uint64(max(1, (len(keys) - 1).bit_length()))
    keys = np.sort((keys >> numbers << numbers) | np.arange(len(keys), dtype=np.uint64))
    return (keys & ((np.uint64(1) << numbers) - np.uint64(1))).astype(np.int64), keys


def permutation(count: int, seed: int, *key: int) -> np.ndarray:
    """0 to `count` - 1, shuffled by a chance that is the key's own, int64 [count]."""
    return _sorted(random_bits(count, seed, *key))[0]


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
        raise ValueError(
            f"holding out {count} of {total} episodes leaves none to learn from: record more (--hours), or hold out "
            "none, --data.validation 0"
        )
    held = np.zeros(total, bool)
    held[permutation(total, seed)[:count]] = True
    return np.split(held, np.cumsum(episodes)[:-1])


class Reach(NamedTuple):
    """How far a sliding shuffle mixes.

    Attributes:
        piece: most steps in a piece, a divisor of a block's 32. Fewer mix better in the same memory, more are cheaper
            to decode: a block is unpacked for each of its pieces.
        window: W, the pieces from which a batch is drawn.
    """

    piece: int
    window: int


class Epoch(NamedTuple):
    """One epoch's order of S states, of which the last three are empty if it is a perfect shuffle.

    Attributes:
        rows: the states in the order in which they are learned from: block * L + step of each, int32 [S].
        times: when each of them is drawn, int32 [S], ascending from 0 to P - 1.
        passes: when its piece passes, int32 [S]: from `times` - W + 1 to `times`. Below 0 is a piece that passes once
            more at the epoch's end.
        pieces: which piece passes at 0 to P - 1, int32 [P]; counted from the end, also which passes at -P to -1.
    """

    rows: np.ndarray
    times: np.ndarray
    passes: np.ndarray
    pieces: np.ndarray


_NONE = np.empty(0, np.int32)


class Order:
    """The sequence of states of every epoch, and where its batches begin. Pure: no files, no clock, no rank.

    Args:
        lengths: steps in each block, [N].
        batch_size: most states in a batch, over all ranks.
        seed: of the shuffling.
        reach: of a sliding shuffle; None is a perfect one.
        shuffle: False is the recorded order: as if blocks passed one by one.

    Attributes:
        states: S, the states of an epoch.
        batches: of an epoch.
        bounds: where its batches begin and end, int64 [batches + 1].
        reach: its window is at most P.
        piece_starts: block and first step of each of P pieces, int32 [P, 2].
    """

    def __init__(
        self, lengths: np.ndarray, batch_size: int, seed: int, reach: Reach | None, shuffle: bool = True
    ) -> None:
        lengths = lengths.astype(np.int64)
        self.seed, self.shuffle = seed, shuffle
        self.states = int(lengths.sum())
        self.batches = -(-self.states // batch_size)
        self.bounds = self.states * np.arange(self.batches + 1) // self.batches
        first = np.cumsum(lengths) - lengths  # each block's first state
        self._rows = np.arange(self.states) + np.repeat(np.arange(len(lengths)) * BLOCK - first, lengths)
        piece, window = (reach or Reach(BLOCK, 1)) if shuffle else Reach(BLOCK, 1)
        count = -(-lengths // piece)
        block = np.repeat(np.arange(len(lengths)), count)
        step = (np.arange(len(block)) - np.repeat(np.cumsum(count) - count, count)) * piece
        self.piece_starts = np.stack([block, step], 1).astype(np.int32)
        self._piece_lengths = np.diff(first[block] + step, append=self.states)
        self.reach = None if shuffle and reach is None else Reach(piece, min(window, len(block)))

    def epoch(self, number: int) -> Epoch:
        """The order of an epoch; takes some milliseconds for 100,000 states."""
        if self.reach is None:
            states = permutation(self.states, self.seed, number)
            epoch = Epoch(self._rows[states].astype(np.int32), _NONE, _NONE, _NONE)
        else:
            epoch = self._sliding(number, len(self.piece_starts), self.reach.window)
        for array in epoch:
            array.flags.writeable = False  # shared by everybody who asks
        return epoch

    def _sliding(self, number: int, count: int, window: int) -> Epoch:
        """Times are whole numbers in fine units, so that all machines agree."""
        pieces = permutation(count, self.seed, number, 0) if self.shuffle else np.arange(count)
        passes = np.empty(count, np.uint64)
        passes[pieces] = np.arange(count, dtype=np.uint64)
        passes = np.repeat(passes, self._piece_lengths)  # of each state
        unit = np.uint64(63 - count.bit_length())  # the finest: twice `count` still fits into 64 bits
        times = passes << unit
        if self.shuffle:
            times += (random_bits(self.states, self.seed, number, 1) >> (np.uint64(64) - unit)) * np.uint64(window)
        beyond = times >= np.uint64(count) << unit
        times[beyond] -= np.uint64(count) << unit
        states, times = _sorted(times)
        passes = passes.astype(np.int64) - count * beyond
        found = (self._rows[states], times >> unit, passes[states], pieces)
        return Epoch(*(array.astype(np.int32) for array in found))
