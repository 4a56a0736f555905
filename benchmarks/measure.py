"""One entry, measured once: what it delivers is counted, timed, and compared with the recording."""

from __future__ import annotations

import gc
import multiprocessing
import resource
from importlib import import_module
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks import rivals
from benchmarks.entries import ENTRIES, Job, Reader
from benchmarks.recorded import Recorded

CHECKED = 8
"""Timed batches that are compared with the recording, evenly over the time, while the clock stands still."""


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
        elsewhere: cores that other processes used meanwhile.
    """

    states_per_second: float
    cpu_us_per_state: float
    first_batch_seconds: float
    memory_mb: float
    bytes_per_state: float
    mix: float
    states: int
    checked: int
    elsewhere: float


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
    others = Others()
    states, seconds, cpu, mixes, more = _timed(reader, recorded, job.seconds)
    elsewhere, memory = others.cores(), _memory_mb()
    warmed = checked
    del reader, batch
    gc.collect()  # ends the workers; only then the system tells what they used
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_of_workers = (workers.ru_utime + workers.ru_stime) / (warmed + states)
    return Measurement(
        states_per_second=states / seconds,
        cpu_us_per_state=1e6 * (cpu / states + cpu_of_workers),
        first_batch_seconds=first_batch,
        memory_mb=memory,
        bytes_per_state=_size(job.scratch / job.entry if entry.write else job.source) / len(recorded),
        mix=float(np.mean(mixes)),
        states=states,
        checked=checked + more,
        elsewhere=elsewhere,
    )


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


class Others:
    """What other processes use, from now on: a rate that was measured on a busy machine should say so."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """The time, and the CPU seconds of all processes and of this one with its workers."""
        every, this = psutil.cpu_times(), psutil.Process()
        # steal is what the machine's own host took
        busy = sum(getattr(every, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))
        own = [process.cpu_times() for process in (this, *this.children(recursive=True))]
        return perf_counter(), busy, sum(times.user + times.system for times in own)

    def cores(self) -> float:
        """How many cores, on average."""
        began, busy, own = self._now()
        return max(0.0, (busy - self._busy - own + self._own) / max(began - self._began, 1e-9))


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
