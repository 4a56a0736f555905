"""What was recorded, to judge what is delivered: is it that, byte by byte, and how well is it mixed?"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
from scipy.special import gammaln

from pd_lightning.blocks import Shard, find_shards
from pd_lightning.files import atomic

SEGMENT = 64
"""Steps of one episode that count as one sample when batches are judged: neighbours are near copies."""


class WrongState(Exception):
    """A loader delivered something that was never recorded."""


def each_state(folder: Path, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first `count` states, uint8 [4, 84, 84], and their Q-values, float32 [A], in the recorded order."""
    left = count
    for shard in map(Shard, find_shards(folder)):
        for block in range(shard.n_blocks):
            for pair in list(zip(shard.states(block), shard.q_values[block], strict=False))[:left]:
                left -= 1
                yield pair


def digests(states: np.ndarray, q_values: np.ndarray) -> np.ndarray:
    """One number for each state together with its Q-values, uint64 [n]."""
    rows = (np.ascontiguousarray(s).tobytes() + q.tobytes() for s, q in zip(states, q_values, strict=True))
    return np.array([int.from_bytes(blake2b(row, digest_size=8).digest(), "little") for row in rows], np.uint64)


class Recorded:
    """Digest and segment of every state, in the recorded order.

    Play repeats itself: states that are equal, Q-values included, belong to the segment of the first of them. Nobody
    could tell them apart, neither here nor in training.

    Args:
        digests: of the states with their Q-values, uint64 [N].
        segments: which `SEGMENT` steps of which episode each belongs to, int64 [N].
    """

    def __init__(self, digests: np.ndarray, segments: np.ndarray) -> None:
        self.digests = digests
        self._keys, self._first, same = np.unique(digests, return_index=True, return_inverse=True)
        self.segments = segments[self._first[same]]
        self._counts = np.unique(self.segments, return_counts=True)[1]

    def __len__(self) -> int:
        return len(self.digests)

    def find(self, states: np.ndarray, q_values: np.ndarray) -> np.ndarray:
        """The place of each delivered state in the recording (the first, if it occurs again), int64 [n].

        Args:
            states: as delivered, uint8 [n, 4, 84, 84].
            q_values: as delivered, float32 [n, A].

        Raises:
            WrongState: the types are others, or a state, or its Q-values, are not bytewise those recorded.
        """
        if states.dtype != np.uint8 or states.shape[1:] != (4, 84, 84) or q_values.dtype != np.float32:
            raise WrongState(f"states are {states.dtype} {states.shape}, Q-values {q_values.dtype}")
        found = digests(states, q_values)
        places = np.searchsorted(self._keys, found).clip(max=len(self._keys) - 1)
        if wrong := int((self._keys[places] != found).sum()):
            raise WrongState(f"{wrong} of {len(found)} states are not recorded, or have other Q-values")
        return self._first[places]

    def mix(self, places: np.ndarray) -> float:
        """Distinct segments in a batch, relative to what a perfect shuffle of all states gives on average."""
        return len(np.unique(self.segments[places])) / self.perfect(len(places))

    def perfect(self, size: int) -> float:
        """Distinct segments expected among `size` states drawn without replacement.

        A segment of s states is missed with probability C(N - s, size) / C(N, size).
        """
        others = len(self) - self._counts
        possible = others >= size  # else there are too few others to miss it
        n, rest = others[possible] + 1.0, len(self) + 1.0
        missed = np.exp(gammaln(n) - gammaln(n - size) - gammaln(rest) + gammaln(rest - size))
        return float(len(self._counts) - missed.sum())

    def first(self, count: int) -> Recorded:
        """Only the first `count` states."""
        return Recorded(self.digests[:count], self.segments[:count])

    @classmethod
    def of(cls, folder: Path) -> Recorded:
        """Of all shards of a game; reads all of it."""
        found, segments, before = [], [], 0
        for shard in map(Shard, find_shards(folder)):
            steps = np.zeros(len(shard.returns), np.int64)  # so far, as an episode's blocks are in the order of play
            for block, episode in enumerate(shard.episodes.tolist()):
                states = shard.states(block)
                found.append(digests(states, shard.q_values[block][: len(states)]))
                step = steps[episode] + np.arange(len(states))
                steps[episode] += len(states)
                segments.append((before + episode) * 2**32 + step // SEGMENT)
            before += len(steps)
        return cls(np.concatenate(found), np.concatenate(segments))

    def save(self, path: Path) -> None:
        """Writes it under its name when it is whole."""
        with atomic(path) as part:
            np.savez(part, digests=self.digests, segments=self.segments)

    @classmethod
    def load(cls, path: Path) -> Recorded:
        """What `save` wrote."""
        with np.load(path) as file:
            return cls(file["digests"], file["segments"])
