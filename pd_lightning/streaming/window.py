"""Decoded frames in memory, which a stream gathers batches from.

Threads read around libhdf5's lock and decode into slots; a batch is one gather out of them. Once all is decoded, as
many threads gather as torch is set to: each then finds in its own cache what it is going to learn from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pd_lightning.blocks import CHUNK, STACK
from pd_lightning.streaming.buffers import BufferPool
from pd_lightning.streaming.sequence import Blocks

PIXELS = CHUNK[1] * CHUNK[2]
"""Bytes of a frame."""
_STACKED = np.arange(STACK)
_thread = threading.local()  # a block per thread; fresh memory for each would cost more than to unpack it
JOB = 16
"""Most slots that a thread fills at a time: some tenths of a millisecond of work."""
BUSY = 8
"""Jobs that threads may have at a time, or as many as a batch needs: whichever is more."""


@dataclass
class Job:
    """Some pieces that a thread decodes together.

    Attributes:
        number: of all jobs of a window, as they were asked for.
        slots: where to, int [n].
        pieces: block and first step of each, int [n, 2].
        frames: done when they are; what a device has yet to copy.
    """

    number: int
    slots: np.ndarray
    pieces: np.ndarray
    frames: Future[Tensor | None] = field(default_factory=Future)


class Window:
    """Slots of decoded frames in host memory.

    Args:
        blocks: what is read.
        slots: how many pieces it holds.
        steps: most states in a piece; a slot has 3 frames more.
        workers: threads that decode.
    """

    def __init__(self, blocks: Blocks, slots: int, steps: int, workers: Executor) -> None:
        self.slots, self.depth = slots, steps + STACK - 1
        self._blocks, self._workers = blocks, workers
        self._jobs: dict[int, Job] = {}  # all that was asked for and not waited for, by number
        self._queue: OrderedDict[int, Job] = OrderedDict()  # those of them that no thread knows of yet
        self._flying: deque[Job] = deque()
        self._count = 0  # of all jobs so far
        self._cold = True  # nothing has arrived since the beginning: threads have most to do, and we have nothing
        self._job_of = np.full(slots, -1)  # which job a slot waits for
        self._make_room()

    def _make_room(self) -> None:
        self._frames = np.empty((self.slots, self.depth, *CHUNK[1:]), np.uint8)
        self._pool = BufferPool()

    def ask(self, slots: np.ndarray, pieces: np.ndarray) -> None:
        """Asks for pieces, to be decoded into slots from the next `wait` on; what is there is lost.

        Args:
            slots: different ones, int [n]; they are filled in this order.
            pieces: block and first step of each, int [n, 2].

        Raises:
            ShardError: a piece that was asked for before in one of these slots is damaged.
        """
        self._arrive(slots)  # what nobody needed must not come after what is asked for now
        for low in range(0, len(slots), JOB):
            job = Job(self._count, slots[low : low + JOB], pieces[low : low + JOB])
            self._job_of[job.slots] = job.number
            self._jobs[job.number] = job
            self._queue[job.number] = job
            self._count += 1

    @property
    def waiting(self) -> bool:
        """Whether anything that was asked for has not arrived."""
        return bool(self._jobs)

    def wait(self, slots: np.ndarray) -> None:
        """Until the pieces that were asked for last in these slots have arrived; others are decoded meanwhile.

        Only so many others that the threads have work until the next batch: a window that is filled at once would hold
        up what other streams need first.

        Raises:
            ShardError: one of them is damaged; so it is if asked again.
        """
        needed = self._pending(slots)
        self._submit(needed)
        while self._flying and self._flying[0].frames.done():
            job = self._flying.popleft()
            if job.number in self._jobs and job.frames.exception() is None:  # else it is raised where it is needed
                self._finish(job)
        for _ in range(min(len(self._queue), max(BUSY, len(needed)) - len(self._flying))):
            self._start(next(iter(self._queue)))
        self._arrive(slots)
        self._cold = False

    def clear(self) -> None:
        """Gives up whatever was asked for, once nobody writes any more."""
        for job in self._flying:
            if not job.frames.cancel():
                job.frames.exception()
        self._jobs.clear()
        self._queue.clear()
        self._flying.clear()
        self._job_of[:] = -1
        self._cold = True

    def _pending(self, slots: np.ndarray) -> list[int]:
        """The jobs that slots wait for."""
        jobs = self._job_of[slots]
        return np.unique(jobs[jobs >= 0]).tolist()

    def _submit(self, jobs: list[int]) -> None:
        """Gives jobs to the threads, if they do not have them."""
        for number in jobs:
            if number in self._queue:
                self._start(number)

    def _start(self, number: int) -> None:
        job = self._queue.pop(number)
        job.frames = self._workers.submit(self._decode, job.slots.tolist(), job.pieces.tolist())
        self._flying.append(job)

    def _arrive(self, slots: np.ndarray) -> None:
        """Waits for jobs, and does what is left to do when they are done."""
        jobs = self._pending(slots)
        self._submit(jobs)
        for number in jobs:
            job = self._jobs[number]
            if self._cold and job.frames.cancel():  # no thread has begun: it is sooner done than waited for
                job.frames = Future()
                try:
                    job.frames.set_result(self._decode(job.slots.tolist(), job.pieces.tolist()))
                except Exception as error:  # it is raised now, and whenever the job is asked for again
                    job.frames.set_exception(error)
            self._finish(job)

    def _finish(self, job: Job) -> None:
        """Does what is left to do when a job is done; a device's copies of frames must not pile up in host memory."""
        self._settle(job.slots, job.frames.result())
        self._job_of[job.slots] = -1
        del self._jobs[job.number]

    def _decode(self, slots: list[int], pieces: list[list[int]]) -> Tensor | None:
        """Runs in a thread."""
        self._fill((self._frames[slot] for slot in slots), pieces)

    def _fill(self, room: Iterable[np.ndarray], pieces: list[list[int]]) -> None:
        for out, (block, step) in zip(room, pieces, strict=True):
            if self.depth == CHUNK[0]:
                self._blocks.read(block, out)
            else:  # all of it has to be unpacked: into memory that stays in the processor's cache
                if not hasattr(_thread, "block"):
                    _thread.block = np.empty(CHUNK, np.uint8)
                self._blocks.read(block, _thread.block)
                out[:] = _thread.block[step : step + self.depth]

    def _settle(self, slots: np.ndarray, frames: Tensor | None) -> None:
        """What is left to do when a job is done."""

    def room(self, count: int) -> Any:
        """Memory for states, to be gathered into: an array or tensor uint8 [count, 4, 84, 84]."""
        return self._pool.take(count)

    def gather(self, frames: np.ndarray, room: Any) -> None:
        """Copies states.

        Args:
            frames: the four frames of each, counted over all slots, int [4 n].
            room: uint8 [n, 4, 84, 84], of what `room` gave.
        """
        flat = self._frames.reshape(-1, PIXELS)
        if self.waiting or torch.get_num_threads() == 1:  # else it would take the cores that decode from them
            # mode="clip": numpy then writes straight to `out`; with one thread it is 5% faster than torch.
            np.take(flat, frames, axis=0, out=room.reshape(-1, PIXELS), mode="clip")
        else:
            index = torch.from_numpy(frames)
            torch.index_select(torch.from_numpy(flat), 0, index, out=torch.from_numpy(room).view(-1, PIXELS))

    def tensor(self, room: Any) -> Tensor:
        """What was gathered."""
        return torch.from_numpy(room)


def stacked(first: np.ndarray) -> np.ndarray:
    """The frames of states by the first of each, int64 [4 n]."""
    return (first[:, None] + _STACKED).ravel()


def slot_bytes(steps: int) -> int:
    """Memory of a slot for pieces of so many steps."""
    return (steps + STACK - 1) * PIXELS
