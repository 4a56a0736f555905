"""One entry, measured once: what it delivers is counted, timed, and compared with the recording."""

from __future__ import annotations

import gc
import multiprocessing
import resource
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np

from benchmarks import rivals
from benchmarks.recorded import Recorded
from benchmarks.rivals import Batches
from pd_lightning.blocks import CHUNK, STACK, Shard, find_shards
from pd_lightning.streaming import Blocks, Stream, choose_reach, held_out

CHECKED = 8
"""Timed batches that are compared with the recording, evenly over the time, while the clock stands still."""


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
        memory: bytes for `ours, streaming`.
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


def ours(job: Job, memory: int | None = None) -> Reader:
    """pd_lightning's own stream: the one place that knows how it is made.

    Args:
        job: what to measure.
        memory: bytes for decoded frames; None is enough for all.
    """
    shards = [Shard(path) for path in find_shards(job.source)]
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
    "h5py": Entry(partial(rival, rivals.read_h5py), rivals.write_h5py),
    "pickle": Entry(partial(rival, rivals.read_pickle), rivals.write_pickle),
    "webdataset": Entry(partial(rival, rivals.read_webdataset), rivals.write_webdataset, "webdataset"),
    "litdata": Entry(partial(rival, rivals.read_litdata), rivals.write_litdata, "litdata"),
    "mosaicml-streaming": Entry(partial(rival, rivals.read_mosaicml), rivals.write_mosaicml, "streaming"),
}


class Measurement(NamedTuple):
    """One run of one entry.

    Attributes:
        states_per_second: delivered, while the clock ran.
        cpu_us_per_state: of this process while the clock ran, and of its workers over all of their life.
        first_batch_seconds: from opening the data to holding the first batch; without imports.
        memory_mb: of all processes after the last batch; what they share counts once.
        bytes_per_state: on disk, whatever the library left beside its data included.
        mix: distinct segments in a batch relative to a perfect shuffle's, mean of the checked batches.
        states: delivered while the clock ran.
        checked: states compared with the recording.
    """

    states_per_second: float
    cpu_us_per_state: float
    first_batch_seconds: float
    memory_mb: float
    bytes_per_state: float
    mix: float
    states: int
    checked: int


def measure(job: Job) -> Measurement:
    """Runs an entry.

    Raises:
        WrongState: it delivered something that was not recorded.
        ImportError: its library is not installed.
    """
    entry = ENTRIES[job.entry]
    rivals.stand_in_for_vision_and_text()
    import_module(entry.module)
    recorded = Recorded.load(job.recorded)
    recorded = recorded.first(job.states) if entry.write else recorded
    began = perf_counter()
    reader = entry.read(job)
    batch = next(reader.batches)
    first_batch = perf_counter() - began
    checked = len(_places(recorded, batch))
    for _ in range(-(-max(job.warm_up, 1) // reader.epoch) * reader.epoch - 1):
        checked += len(_places(recorded, next(reader.batches)))
    states, seconds, cpu, mixes, more = _timed(reader, recorded, job.seconds)
    memory = _memory_mb()
    warmed = checked
    del reader, batch
    gc.collect()  # ends the workers; only then the system tells what they used
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_of_workers = (workers.ru_utime + workers.ru_stime) / (warmed + states)
    size = _size(job.scratch / job.entry if entry.write else job.source) / len(recorded)
    us = 1e6 * (cpu / states + cpu_of_workers)
    return Measurement(states / seconds, us, first_batch, memory, size, float(np.mean(mixes)), states, checked + more)


def _places(recorded: Recorded, batch: tuple) -> np.ndarray:
    states, q_values = batch
    return recorded.find(np.asarray(states), np.asarray(q_values))


def _timed(reader: Reader, recorded: Recorded, least: float) -> tuple[int, float, float, list[float], int]:
    """States delivered, seconds, CPU seconds of this process, mix of each checked batch, states checked."""
    states, batches, checked = 0, 0, 0
    seconds = cpu = 0.0
    mixes: list[float] = []
    while seconds < least or batches % reader.epoch:
        began, used = perf_counter(), process_time()
        batch = next(reader.batches)
        seconds += perf_counter() - began
        cpu += process_time() - used
        states += len(batch[0])
        batches += 1
        if seconds >= len(mixes) * least / CHECKED:
            places = _places(recorded, batch)
            mixes.append(recorded.mix(places))
            checked += len(places)
    return states, seconds, cpu, mixes, checked


def _memory_mb() -> float:
    """Proportional set size of this process and its workers; outside of Linux, the peak of this process alone."""
    try:
        total = 0
        for pid in ["self", *(str(child.pid) for child in multiprocessing.active_children())]:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _size(folder: Path) -> int:
    """Bytes of the data in a folder; not of a teacher beside it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors")
