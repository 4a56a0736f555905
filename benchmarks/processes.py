"""Processes: a fresh one for every measurement, and one that keeps a core busy."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeVar

import torch

from pd_lightning.machine import keep_freed_memory
from pd_lightning.networks import QNetwork

T = TypeVar("T")


def use_cores(count: int) -> int:
    """Confines this process, and those that it starts, to some cores; returns how many. Only Linux can."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    chosen = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, chosen)
    return len(chosen)


def _settle(log: Path) -> None:
    """What a fresh process does first: other libraries' bars and warnings go to a file, not between our rows."""
    sys.stdout.flush()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the bound gathers with one thread too
    if sys.platform == "linux":
        # Workers must be children of the process that is measured; a fork server's escape `getrusage`.
        multiprocessing.set_start_method("fork", force=True)


def in_fresh_process(log: Path, function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a new interpreter; its exceptions are raised here."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_settle, initargs=(log,)) as pool:
        return pool.submit(function, *arguments).result()


def _train(ready: Event) -> None:
    """Trains a student on one thread until it is killed."""
    torch.set_num_threads(1)
    keep_freed_memory()
    network = QNetwork({"pong": 6}, "net1")
    optimizer = torch.optim.Adam(network.parameters())
    states, teacher_q = torch.randint(0, 256, (256, 4, 84, 84), dtype=torch.uint8), torch.randn(256, 6)
    while True:
        loss = (network({"pong": states})["pong"] - teacher_q).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ready.set()


@contextmanager
def busy_core() -> Iterator[None]:
    """A second process trains a student with one thread, so that one core is never idle."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_train, args=(ready,), daemon=True)
    process.start()
    try:
        if not ready.wait(120):
            raise RuntimeError("the process that should keep a core busy did not start")
        yield
    finally:
        process.kill()
        process.join()
