"""Ten games of ten hours in little memory: how soon the first batch is there, and what a whole epoch takes.

    python -m benchmarks.large

The recordings are made of the one that ships: its blocks under ten names, ten hours each, with random Q-values for as
many actions as each game has. They take 470 MB in the scratch folder, and are kept there for the next time.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import track

from pd_lightning.atari import action_meanings
from pd_lightning.blocks import CHUNK, Shard, ShardWriter
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.scores import PAPERS_GAMES
from pd_lightning.streaming import Batch
from pd_lightning.streaming.stream import describe

GAMES = PAPERS_GAMES


def record(source: Path, root: Path, hours: int) -> None:
    """Writes the recordings, but those that are there."""
    shard, chance = Shard(source), np.random.default_rng(0)
    frames = np.empty((shard.n_blocks, *CHUNK), np.uint8)
    for block in range(shard.n_blocks):
        shard.read_block(block, frames[block])
    wanted = [(game, hour) for game in GAMES for hour in range(hours)]
    missing = [(game, hour) for game, hour in wanted if not (root / game / f"{hour:04d}.h5").exists()]
    for game, hour in track(missing, "recording", console=Console(stderr=True), disable=not missing):
        actions = action_meanings(game)
        header = replace(shard.header, game=game, action_meanings=actions, shard=hour)
        with ShardWriter(root / game / f"{hour:04d}.h5", header) as writer:
            for block, n in enumerate(shard.lengths.tolist()):
                q_values = chance.normal(size=(n, len(actions))).astype(np.float32)
                played = (shard.actions[block, :n] % len(actions)).astype(np.uint8)
                rows = q_values, played, shard.rewards[block, :n]
                writer.add(frames[block][: n + 3], *rows, episode=int(shard.episodes[block]))
            writer.finish(shard.returns)


def peak_gib() -> float:
    """The most memory that this process has had so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def resident_gib() -> float:
    """What it has now; outside of Linux, the most so far."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() / 2**30 if status.exists() else peak_gib()


def epoch(batches: Iterator[dict[str, Batch]], count: int) -> Iterator[tuple[int, float]]:
    """States so far and memory now, after every batch."""
    states = 0
    for _ in track(range(count), "an epoch", console=Console(stderr=True)):
        states += sum(len(part.states) for part in next(batches).values())
        yield states, resident_gib()


def large(
    source: str = "datasets/pong/0000.h5",
    scratch: str = "",
    hours: int = 10,
    batch_size: int = 256,
    memory: float = 1.0,
    output: str | None = None,
) -> None:
    """Takes an epoch of ten games from little memory.

    Args:
        source: the shard that the recordings are made of.
        scratch: where they lie; empty is a folder of the system's temporary one.
        hours: of each game.
        batch_size: states of each game in a batch.
        memory: GiB for decoded frames.
        output: a JSON file for the figures.
    """
    root = Path(scratch or Path(tempfile.gettempdir()) / "pd_lightning_benchmarks") / f"ten-games-{hours}-hours"
    if any(not (root / game / f"{hours - 1:04d}.h5").exists() for game in GAMES):
        record(Path(source), root, hours)
        raise SystemExit("recorded; run it once more, so that memory is that of a fresh process")
    imported, began = resident_gib(), time.perf_counter()
    data = TeacherDatasets(str(root), list(GAMES), batch_size, memory=memory)
    opened = time.perf_counter()
    data.trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    data.setup("fit")
    assert data.mixture is not None
    batches, count = iter(data.mixture), len(data.mixture)
    ready = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    over = list(epoch(batches, count - 1))
    seconds, quarter = time.perf_counter() - first, len(over) // 4
    found = {
        "states": sum(blocks.states for blocks in data.blocks.values()),
        "open_seconds": opened - began,
        "first_batch_seconds": first - ready,
        "states_per_second": over[-1][0] / seconds,
        "imported_gib": imported,
        "after_a_quarter_gib": over[quarter][1],
        "at_the_end_gib": over[-1][1],
        "peak_gib": peak_gib(),
        "stream": describe(data.mixture.streams["pong"]),
    }
    print(json.dumps(found, indent=2))
    if output:
        Path(output).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(large, as_positional=False, prog="python -m benchmarks.large")
