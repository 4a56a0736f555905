"""The command line: `python -m pd_lightning.streaming order`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pd_lightning.commands import called, status_of
from pd_lightning.machine import usual_room
from pd_lightning.recorded import open_game
from pd_lightning.remote import local_root
from pd_lightning.streaming.mixing import Mixture, build_streams
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.shares import batch_sizes, check_data, check_devices, check_mixing, choose_reaches
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
    allow_mixed: bool = False,
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
        allow_mixed: accept shards of different teachers or protocols in one game's folder.
    """
    games = games.split(",") if isinstance(games, str) else games
    check_data(games, batch_size, seed, memory)
    every = check_mixing(games, mixing, weights)
    if ranks < 1 or epoch < 0:
        raise ValueError(f"ranks is {ranks}, epoch {epoch}: choose at least 1, and at least 0")
    sizes = batch_sizes(batch_size, mixing, every)
    check_devices(batch_size, ranks, sizes)
    local = local_root(root, games, cache)
    blocks = {}
    for game in games:
        shards = open_game(local / game, game, allow_mixed)
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
    return status_of(lambda: called("streaming", {"order": order}, args=arguments))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it, as it ends other commands
    sys.exit(main())
