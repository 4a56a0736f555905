"""Play in a thread, beside the training that it feeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision


def context_beside(trainer: pl.Trainer) -> Callable[[], AbstractContextManager]:
    """The precision of training, as a thread beside it may enter it.

    That of true bfloat16 or float64 changes the usual type of the whole process: two threads would undo each other's
    change, and it would stay. A network that was converted needs no more than itself. Of mixed precision autocast alone
    is a thread's own; Lightning's versions to come add to it what is the process's.
    """
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision):
        return plugin.autocast_context_manager
    return nullcontext if isinstance(plugin, HalfPrecision | DoublePrecision) else plugin.forward_context


def playing_thread() -> ThreadPoolExecutor:
    """A thread to play in, which has one of torch's threads. The caller sets its own number afterwards."""
    thread = ThreadPoolExecutor(1, "play")
    thread.submit(torch.set_num_threads, 1).result()  # of that thread; first, since MKL has one number for all
    return thread


@contextmanager
def half_of_the_cores(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """A thread to play in, and a number of cores for its emulators: half of them, if the network learns on a CPU.

    Torch's work is then on the other half: two halves that do not wait for each other do more than one whole.
    """
    cores = torch.get_num_threads()
    learning = max(cores // 2, 1) if device.type == "cpu" else cores
    with playing_thread() as thread:
        torch.set_num_threads(learning)
        try:
            yield thread, max(cores - learning, 1) if device.type == "cpu" else 0
        finally:
            torch.set_num_threads(cores)
