"""Several games in one sequence of batches: which games each batch holds, and which of their own batches those are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from pd_lightning.streaming.order import Reach
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.stream import Batch, Stream, new_workers

MOST_TURNS = 10_000_000
"""Batches of an epoch in which games take turns: whose each is, is written down before the first."""


class Mixture:
    """Batches {game: Batch} without end: an epoch's number at a time, going on where learning stopped.

    ``balanced``: every batch holds every game, and an epoch is as long as the game with the most batches needs; smaller
    ones begin anew meanwhile. ``one_game``: each batch is of one game (Rusu et al., 2016), which take turns as evenly
    as their weights allow; an epoch gives every game its share, and at least all of its states.

    Args:
        streams: one of each game.
        mixing: `balanced` or `one_game`.
        weights: of each game; in a balanced mixture they lie in the streams' batch sizes.
        learned: says how many batches were learned from, over all epochs; asked when an iteration begins. By default
            they are all that were given.

    Attributes:
        streams: see above.
        batches_given: how many were given so far, over all epochs.
        repeat_after: the first so many batches are given again and again, to see whether a student can learn them;
            None gives all.
    """

    def __init__(
        self,
        streams: dict[str, Stream],
        mixing: str,
        weights: Mapping[str, float],
        learned: Callable[[], int] | None = None,
    ) -> None:
        self.streams, self.batches_given = streams, 0
        self._learned = learned or (lambda: self.batches_given)
        self.repeat_after: int | None = None
        self._games = list(streams)
        self._turns: np.ndarray | None = None
        lengths = np.array([len(stream) for stream in streams.values()])
        if mixing == "one_game":
            shares = np.array([weights[game] for game in streams])
            self._shares = np.ceil(shares * (lengths / shares).max() - 1e-9).astype(int)  # batches of each in an epoch
            if self._shares.sum() > MOST_TURNS:
                rare = self._games[int((lengths / shares).argmax())]
                raise ValueError(
                    f"weight of {rare} is {weights[rare]}: an epoch would have {self._shares.sum():,} batches until it "
                    f"has had all of {rare}, allowed are {MOST_TURNS:,}; raise it in --data.weights"
                )
            self._turns, self._numbers = even_turns(self._shares)
        self._length = int(lengths.max()) if self._turns is None else len(self._turns)

    def __len__(self) -> int:
        """Batches in an epoch, on every rank."""
        return self._length

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        """As many batches as an epoch has, from where learning stopped."""
        first = self._learned()
        for number in range(first, first + len(self)):
            self.batches_given = number + 1
            yield self.batch(number % self.repeat_after if self.repeat_after else number)

    def turn(self, number: int) -> dict[str, int]:
        """The games that the `number`-th batch holds, and which of their own batches those are."""
        if self._turns is None:
            return dict.fromkeys(self._games, number)
        epoch, i = divmod(number, self._length)
        game = self._turns[i]
        return {self._games[game]: int(epoch * self._shares[game] + self._numbers[i])}

    def batch(self, number: int) -> dict[str, Batch]:
        """This rank's share of the `number`-th batch of all epochs.

        Raises:
            ShardError: a recording is damaged, or was changed since it was opened.
        """
        turn = self.turn(number)
        for game, own in reversed(turn.items()):  # threads begin with what is needed last, the caller with the first
            self.streams[game].prepare(own)
        return {game: self.streams[game].batch(own) for game, own in turn.items()}


class HeldOut:
    """Validation batches {game: Batch} of one game each; games take turns, so that the first few hold all of them.

    Args:
        streams: one of each game, or none.
    """

    def __init__(self, streams: dict[str, Stream]) -> None:
        self.streams = streams

    def __len__(self) -> int:
        return sum(len(stream) for stream in self.streams.values())

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        if not self.streams:
            return
        games = list(self.streams)
        whose, before = even_turns(np.array([len(stream) for stream in self.streams.values()], int))
        for game, number in zip(whose, before.tolist(), strict=True):  # from the first, also after one that was cut
            yield {games[game]: self.streams[games[game]].batch(number)}


def even_turns(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Who has a turn when, if each has some number of turns, spread evenly.

    Returns:
        Whose turn it is, and how many turns that one had before, int64 [sum of shares] each.

    >>> even_turns(np.array([2, 4]))[0]
    array([1, 0, 1, 1, 0, 1])
    """
    whose = np.repeat(np.arange(len(shares)), shares)
    before = np.concatenate([np.arange(share) for share in shares])
    sequence = np.argsort((before + 0.5) / shares[whose], kind="stable")
    return whose[sequence], before[sequence]


def build_streams(
    blocks: Mapping[str, Blocks],
    sizes: Mapping[str, int],
    reaches: Mapping[str, Reach | None],
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    threads: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Stream]:
    """A shuffled stream of each game, all with the same threads; the arguments are those of `Stream`."""
    workers = new_workers(threads)
    return {
        game: Stream(each, sizes[game], seed, reaches[game], rank, ranks, workers=workers, device=device)
        for game, each in blocks.items()
    }
