"""Independent work on a Ray cluster, which schedules it and gives what a lost machine had begun to another.

All machines must see the same folders under the same names and have this package installed, as a SLURM cluster does.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

RETRIES = 10
"""How often a piece of work is given to another machine after its own was lost."""
Argument = TypeVar("Argument")


class ClusterError(ValueError):
    """Ray is not installed, there is no cluster at that address, or it gave a piece of work up."""


def on_ray(
    address: str, work: Callable[[Argument], Any], arguments: Sequence[Argument]
) -> Iterator[tuple[Argument, Any]]:
    """Calls `work` with each argument somewhere on a cluster, and yields results as they come.

    A call gets a GPU if the cluster has any, else a core. It runs in this process's working directory, and must leave
    what it did in files, so that a call that is made again goes on with them.

    Args:
        address: of the cluster's head, as HOST:6379; auto: the one that this machine belongs to; local: a cluster of
            this machine alone, for as long as this process runs.
        work: an importable function.
        arguments: one a call.

    Yields:
        An argument, and what `work` returned or the exception it raised.

    Raises:
        ClusterError: at the first call of all, before anything is done.
    """
    ray = connect(address)
    gpu = "GPU" in ray.cluster_resources()
    options = {"num_gpus": int(gpu), "num_cpus": int(not gpu), "max_retries": RETRIES}
    call = ray.remote(**options)(_call_in)
    waiting = {call.remote(work, argument, os.getcwd()): argument for argument in arguments}
    try:
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting))
            argument = waiting.pop(ready)
            try:
                yield argument, ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                yield argument, error.cause
            except ray.exceptions.RayError as error:
                yield argument, ClusterError(f"{argument}: {' '.join(str(error).split())[:200]}")
    finally:
        ray.shutdown()


def _call_in(work: Callable[[Argument], Any], argument: Argument, folder: str) -> Any:
    os.chdir(folder)
    return work(argument)


def connect(address: str) -> Any:
    """The module `ray`, connected to a cluster.

    Raises:
        ClusterError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray  # takes a second, and only clusters need it
    except ImportError:
        raise ClusterError(f"--ray {address}: Ray is not installed; pip install -e '.[ray]'") from None
    host, colon, port = address.rpartition(":")
    try:
        if colon and "//" not in address:  # Ray itself would wait for two minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # its kinds for the one cause are many
        reason = " ".join(str(error).split())[:160]
        raise ClusterError(
            f"--ray {address}: no cluster answers ({reason}); start one by `ray start --head`, and give auto or "
            "HOST:6379"
        ) from None
    return ray
