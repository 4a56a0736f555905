"""How much each of several games gets: states of a batch, devices' parts of them, and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pd_lightning.bounds import check_at_least
from pd_lightning.streaming.order import Reach
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.source import choose_reach, memory_of

MIXINGS = ("balanced", "one_game")


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
