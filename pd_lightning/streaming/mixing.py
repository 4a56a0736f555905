"""Several games: which of them an update learns from, how much of each, and which memory each of them gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from pd_lightning.bounds import check_at_least
from pd_lightning.streaming.order import Reach
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.source import choose_reach, memory_of
from pd_lightning.streaming.stream import Batch, Stream, new_workers

MIXINGS = ("balanced", "one_game")
MOST_TURNS = 10_000_000
"""Batches of an epoch in which games take turns: whose each is, is written down before the first."""


def check_distinct(games: Sequence[str]) -> None:
    """Raises a ValueError unless these are names of games, each once."""
    if isinstance(games, str):
        raise ValueError(f"games is {games!r}: give a list, as {games.split(',')}")
    if not games or len(set(games)) != len(games):
        raise ValueError(f"games is {list(games)}: name at least one, and each once")


def check_data(games: Sequence[str], batch_size: int, seed: int, memory: float | None) -> None:
    """Raises a ValueError that names the first of these that makes no sense: see `TeacherDatasets`."""
    check_distinct(games)
    if seed < 0:
        raise ValueError(f"seed is {seed}: choose --data.seed of 0 or more")
    check_at_least(1, "--data.", batch_size=batch_size)
    if not (memory is None or 0 < memory < math.inf):
        raise ValueError(f"memory is {memory}: choose --data.memory, a number of GiB above 0")


def check_mixing(games: list[str], mixing: str, weights: Mapping[str, float]) -> dict[str, float]:
    """The weight of every game, 1 where none is given.

    Raises:
        ValueError: there is no such mixing, or a weight is of no game or not above 0.
    """
    if mixing not in MIXINGS:
        raise ValueError(f"unknown mixing {mixing!r}: choose --data.mixing from {', '.join(MIXINGS)}")
    for game, weight in weights.items():
        if game not in games:
            raise ValueError(
                f"weights has {game}, which is not among the games, {', '.join(games)}: add it to --data.games"
            )
        if not 0 < weight < float("inf"):
            raise ValueError(f"weight of {game} is {weight}: choose --data.weights above 0")
    return {game: float(weights.get(game, 1.0)) for game in games}


def check_devices(batch_size: int, devices: int, sizes: Mapping[str, int] | None = None) -> None:
    """Raises a ValueError if so many devices cannot share a batch equally, or one gets no state of a game.

    Args:
        batch_size: states of each game in a batch.
        devices: that share them.
        sizes: states of each game, if they have weights.
    """
    if batch_size % devices:
        raise ValueError(
            f"batch_size is {batch_size}: it must be a multiple of the number of devices, {devices}; change "
            "--data.batch_size or --trainer.devices"
        )
    for game, size in (sizes or {}).items():
        if size < devices:
            raise ValueError(
                f"weight of {game} leaves {size} states of it in a batch for {devices} devices: raise it, or "
                "--data.batch_size"
            )


def batch_sizes(batch_size: int, mixing: str, weights: Mapping[str, float]) -> dict[str, int]:
    """Most states of each game in a batch that holds it: weights share out `batch_size` for each game, or turns.

    >>> batch_sizes(256, "balanced", {"pong": 3.0, "breakout": 1.0})
    {'pong': 384, 'breakout': 128}
    """
    if mixing == "one_game":
        return dict.fromkeys(weights, batch_size)
    mean = sum(weights.values()) / len(weights)
    sizes = {game: round(batch_size * weight / mean) for game, weight in weights.items()}
    if scarce := [game for game, size in sizes.items() if size < 1]:
        raise ValueError(f"weight of {scarce[0]} leaves no state of it in a batch: raise it, or --data.batch_size")
    return sizes


def choose_reaches(blocks: Mapping[str, Blocks], sizes: Mapping[str, int], memory: int) -> dict[str, Reach | None]:
    """How well each game can be shuffled, if they share some memory: small ones leave to others what they do not need.

    Args:
        blocks: of each game.
        sizes: of their batches, over all ranks.
        memory: bytes for decoded frames, over all games.

    Raises:
        ValueError: there is too little for one of them.
    """
    needs = {game: memory_of(each, sizes[game], None) for game, each in blocks.items()}
    reaches: dict[str, Reach | None] = {}
    for left, game in zip(range(len(needs), 0, -1), sorted(needs, key=lambda game: needs[game]), strict=True):
        reaches[game] = choose_reach(blocks[game], sizes[game], memory // left)
        memory -= memory_of(blocks[game], sizes[game], reaches[game])
    return {game: reaches[game] for game in blocks}


def memory_of_all(blocks: Mapping[str, Blocks], sizes: Mapping[str, int], reaches: Mapping[str, Reach | None]) -> int:
    """Bytes that the decoded frames of all games take."""
    return sum(memory_of(each, sizes[game], reaches[game]) for game, each in blocks.items())


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
