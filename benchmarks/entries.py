"""What is measured: the bound, our own stream, and the rivals; a row of the table each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import rivals
from benchmarks.rivals import Batches
from pd_lightning.blocks import CHUNK, STACK, Shard, find_shards
from pd_lightning.streaming import Blocks, Stream, choose_reach, held_out


class Reader(NamedTuple):
    """What is measured.

    Attributes:
        batches: without end.
        epoch: the clock starts and stops at multiples of this many batches.
    """

    batches: Batches
    epoch: int = 1


class Job(NamedTuple):
    """What to measure.

    Attributes:
        entry: a key of `ENTRIES`.
        source: the recording's folder.
        recorded: file of its digests.
        scratch: where rivals find their files, a folder for each.
        states: how many of the recording rivals hold.
        batch_size: states in a batch.
        seed: of the shuffling.
        seconds: to measure for, at least.
        warm_up: batches before, at least.
        memory: bytes for `ours, streaming`; a quarter of them in `ours, streaming, tight`.
    """

    entry: str
    source: Path
    recorded: Path
    scratch: Path
    states: int
    batch_size: int
    seed: int
    seconds: float
    warm_up: int
    memory: int


LONGER = 4
"""How many times over the recording is read where it is streamed: some hours, as it would be where memory is short."""


def ours(job: Job, memory: int | None = None) -> Reader:
    """pd_lightning's own stream: the one place that knows how it is made.

    Args:
        job: what to measure.
        memory: bytes for decoded frames; None is enough for all.
    """
    shards = [Shard(path) for path in find_shards(job.source)] * (LONGER if memory else 1)
    blocks = Blocks(shards, held_out(shards, 0, seed=0)[0])
    reach = None if memory is None else choose_reach(blocks, job.batch_size, memory)
    stream = Stream(blocks, job.batch_size, job.seed, reach)
    return Reader(map(stream.batch, count()), len(stream))


def _gathers(frames: np.ndarray, first: np.ndarray, q_values: np.ndarray, size: int, seed: int) -> Batches:
    states, q = np.empty((size, STACK, *CHUNK[1:]), np.uint8), np.empty((size, q_values.shape[1]), np.float32)
    flat, chance = frames.reshape(-1, CHUNK[1] * CHUNK[2]), np.random.default_rng(seed)
    while True:
        order = chance.permutation(len(first))
        for low in range(0, len(order), size):
            chosen = order[low : low + size]
            n = len(chosen)
            rows = (first[chosen][:, None] + np.arange(STACK)).ravel()
            # mode="clip": numpy then writes straight to `out`
            np.take(flat, rows, axis=0, out=states[:n].reshape(n * STACK, -1), mode="clip")
            np.take(q_values, chosen, axis=0, out=q[:n], mode="clip")
            yield states[:n], q[:n]


def bound(job: Job) -> Reader:
    """All frames in memory, one gather a batch into memory that is used again: no loader copies less."""
    shards = [Shard(path) for path in find_shards(job.source)]
    frames = np.empty((sum(shard.n_blocks for shard in shards), *CHUNK), np.uint8)
    first, q_values, place = [], [], 0
    for shard in shards:
        for block, length in enumerate(shard.lengths.tolist()):
            shard.read_block(block, frames[place])
            first.append(place * CHUNK[0] + np.arange(length))
            q_values.append(shard.q_values[block, :length])
            place += 1
    rows = np.concatenate(first)
    batches = _gathers(frames, rows, np.concatenate(q_values), job.batch_size, job.seed)
    return Reader(batches, -(-len(rows) // job.batch_size))


def rival(read: Callable[[Path, int, int], Batches], job: Job) -> Reader:
    """Another library, from its own files."""
    return Reader(read(job.scratch / job.entry, job.batch_size, job.seed))


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        read: starts it.
        write: makes its files from the recording's first states; None reads the recording itself.
        module: what must be installed for it.
    """

    read: Callable[[Job], Reader]
    write: Callable[[Path, int, Path], None] | None = None
    module: str = "numpy"


ENTRIES = {
    "bound": Entry(bound),
    "ours, decoded once": Entry(ours),
    "ours, streaming": Entry(lambda job: ours(job, job.memory)),
    "ours, streaming, tight": Entry(lambda job: ours(job, job.memory // 4)),
    "h5py": Entry(partial(rival, rivals.read_h5py), rivals.write_h5py),
    "pickle": Entry(partial(rival, rivals.read_pickle), rivals.write_pickle),
    "webdataset": Entry(partial(rival, rivals.read_webdataset), rivals.write_webdataset, "webdataset"),
    "litdata": Entry(partial(rival, rivals.read_litdata), rivals.write_litdata, "litdata"),
    "mosaicml-streaming": Entry(partial(rival, rivals.read_mosaicml), rivals.write_mosaicml, "streaming"),
}
