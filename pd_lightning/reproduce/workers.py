"""Who does the tasks: this machine's GPUs or cores, or a cluster."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

import torch

from pd_lightning.cluster import on_ray
from pd_lightning.reproduce.tasks import Task, TaskError, execute

PATIENCE = 10
"""Seconds in which commands may end by themselves when they are interrupted, as a terminal interrupts them too."""
Outcome = tuple[Task, float | TaskError]
"""A task, and the seconds that it took or why it failed."""


def places(at_once: int) -> list[dict[str, str]]:
    """Environments of the tasks that run at once on this machine: a GPU each, or a share of its cores.

    Args:
        at_once: how many; 0 is one a GPU, or one in all.
    """
    gpus = torch.cuda.device_count()
    count = at_once or max(gpus, 1)
    if gpus:
        mask = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # others may be somebody else's
        names = mask.split(",") if mask else [str(number) for number in range(gpus)]
        return [{"CUDA_VISIBLE_DEVICES": names[number % gpus]} for number in range(count)]
    return [{"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // count, 1))} if count > 1 else {} for _ in range(count)]


def on_cluster(address: str, tasks: Sequence[Task], begun: Callable[[Task], None]) -> Iterator[Outcome]:
    """Does tasks on a Ray cluster, and yields them as they end; one that fails stops no other.

    Args:
        address: see `pd_lightning.cluster.on_ray`.
        tasks: what to do.
        begun: called with each as it is handed over.

    Raises:
        ClusterError: there is no cluster.
    """
    for task in tasks:
        begun(task)
    for task, outcome in on_ray(address, execute, tasks):
        if isinstance(outcome, Exception) and not isinstance(outcome, TaskError):
            outcome = TaskError(f"{task.name}: {type(outcome).__name__}: {outcome}")
        yield task, outcome


def here(tasks: Sequence[Task], at_once: int, begun: Callable[[Task], None]) -> Iterator[Outcome]:
    """Does tasks on this machine, in their order, and yields them as they end; one that fails stops no other.

    Args:
        tasks: what to do.
        at_once: see `places`.
        begun: called with each as it begins.
    """
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for place in places(at_once):
        free.put(place)

    def work(task: Task) -> float:
        place = free.get()
        begun(task)
        try:
            return execute(task, place)
        finally:
            free.put(place)

    pool = ThreadPoolExecutor(free.qsize(), "task")
    futures = {pool.submit(work, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, TaskError):
                raise error
            yield futures[future], future.result() if error is None else error
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in futures if future.running()], PATIENCE)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
