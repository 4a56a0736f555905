"""Who does the tasks: this machine's GPUs or cores, or a Ray cluster."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import torch

from pd_lightning.reproduce.tasks import Task, TaskError, execute

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
        return [{"CUDA_VISIBLE_DEVICES": str(number % gpus)} for number in range(count)]
    return [{"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // count, 1))} if count > 1 else {} for _ in range(count)]


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

    with ThreadPoolExecutor(free.qsize(), "task") as pool:
        futures = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if error is not None and not isinstance(error, TaskError):
                    raise error
                yield futures[future], future.result() if error is None else error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def on_ray(tasks: Sequence[Task], address: str, begun: Callable[[Task], None]) -> Iterator[Outcome]:
    """Does tasks on a Ray cluster whose nodes share this folder; Ray moves those of a node that dies to another.

    Args:
        tasks: what to do.
        address: of the cluster, or "auto".
        begun: called with each when it is handed over.

    Raises:
        TaskError: Ray is not installed, or the cluster is not there.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise TaskError("--ray needs Ray: pip install -e '.[ray]'") from None
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="warning")
    except Exception as error:
        raise TaskError(
            f"--ray {address}: no cluster there ({str(error)[:160]}); start one with `ray start --head`"
        ) from None
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    folder = os.getcwd()

    @ray.remote(num_gpus=gpus, num_cpus=0 if gpus else 1, max_retries=5)
    def work(task: Task) -> float:
        os.chdir(folder)
        return execute(task)

    waiting: dict[Any, Task] = {}
    for task in tasks:
        begun(task)
        waiting[work.remote(task)] = task
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting))
        task = waiting.pop(ready)
        try:
            yield task, ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, TaskError) else TaskError(f"{task.name}: {error.cause}")
            yield task, cause
        except ray.exceptions.RayError as error:
            yield task, TaskError(f"{task.name}: {type(error).__name__}, {str(error)[:160]}")
