"""The command line: `python -m pd_lightning.streaming order`."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from jsonargparse import auto_cli

from pd_lightning.blocks import Shard, find_shards
from pd_lightning.machine import usual_room
from pd_lightning.remote import local_root
from pd_lightning.streaming.mixing import (
    Mixture,
    batch_sizes,
    build_streams,
    check_devices,
    check_mixing,
    choose_reaches,
)
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.stream import held_out


def order(
    root: str,
    games: str | list[str] = "pong",
    batch_size: int = 256,
    ranks: int = 1,
    rank: int = 0,
    epoch: int = 0,
    seed: int = 0,
    memory: float | None = None,
    validation: float = 0.05,
    mixing: str = "balanced",
    weights: dict[str, float] = {},  # noqa: B006 (never changed)
    cache: str | None = None,
) -> None:
    """Prints the states that a rank would see in an epoch: game, batch, shard, block, step; reads no frames.

    Args:
        root: folder of the datasets, or a URL of one.
        games: which of them; `pong,breakout` and `[pong, breakout]` are the same.
        batch_size: states of each game in a batch, over all ranks.
        ranks: number of devices.
        rank: which of them.
        epoch: counted from 0.
        seed: of the shuffling.
        memory: GiB for decoded frames, over all games, on each device (default: the devices share about half of what is
            free now). Give what the run says at its start if it does not shuffle perfectly.
        validation: share of the episodes that is held out.
        mixing: balanced (every batch holds every game) or one_game.
        weights: of games, 1 where none is given.
        cache: where the shards of a URL are kept (default: as for a fit).
    """
    games = games.split(",") if isinstance(games, str) else games
    if len(set(games)) != len(games):
        raise ValueError(f"games is {','.join(games)}: name each once")
    every = check_mixing(games, mixing, weights)
    if ranks < 1:
        raise ValueError(f"ranks is {ranks}: it must be at least 1")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
    if epoch < 0 or seed < 0:
        raise ValueError(f"epoch and seed are {epoch} and {seed}: they must be at least 0")
    if memory is not None and not 0 < memory < math.inf:
        raise ValueError(f"memory is {memory}: it must be a number of GiB above 0")
    sizes = batch_sizes(batch_size, mixing, every)
    check_devices(batch_size, ranks, sizes)
    local = local_root(root, games, cache)
    blocks = {}
    for game in games:
        shards = [Shard(path) for path in find_shards(local / game)]
        blocks[game] = Blocks(shards, held_out(shards, validation, seed)[0])
    room = usual_room("cpu", ranks) if memory is None else int(memory * 2**30)
    reaches = choose_reaches(blocks, sizes, room)
    print_order(Mixture(build_streams(blocks, sizes, reaches, seed, rank, ranks), mixing, every), epoch)


def print_order(mixture: Mixture, epoch: int) -> None:
    """A line a state."""
    for i in range(len(mixture)):
        for game, number in mixture.turn(epoch * len(mixture) + i).items():
            stream = mixture.streams[game]
            ids = stream.ids(number)
            shards = [Path(shard.path).name for shard in stream.blocks.shards]
            for (shard, block), step in zip(stream.blocks.chosen[ids[:, 0]], ids[:, 1], strict=True):
                print(game, i, shards[shard], block, step)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        auto_cli({"order": order}, args=arguments, prog="python -m pd_lightning.streaming")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough; there is nobody to flush to at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
