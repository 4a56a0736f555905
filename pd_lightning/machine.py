"""What is best on the machine at hand, measured, and set once for a process."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
CONTROL_GROUPS = (
    ("", ".", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of version 2 and of version 1: the controller's name, where it is mounted, files of limit and usage, and what of the
usage is cached."""


def fastest_precision(accelerator: str | object) -> str:
    """bf16-mixed where the hardware multiplies bfloat16, else 32-true."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    capable = any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bf16-mixed" if accelerator in ("auto", "cpu") and capable else "32-true"


def chosen_device(name: str) -> str:
    """What a `--device` means: auto is a GPU where there is one, everything else itself.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (AssertionError, RuntimeError) as error:  # the first where torch was built without it
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device is {name}, which is not here ({reason}): choose auto, cpu or cuda") from None
    return name


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory for the next allocation, instead of giving it back to the system.

    A network's activations are allocated and freed in every update; by default each time from fresh pages, which the
    system must clear: 130,000 page faults a second, and training on the CPU is 1.3 to 3 times slower. Nothing happens
    with another C library than glibc.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc accepts
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def available_memory(device: torch.device | str) -> int:
    """Bytes that could be used now without swapping: a GPU's own; else the machine's, within a container's limit."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min([psutil.virtual_memory().available, *_within_limits(Path("/sys/fs/cgroup"))]))


def sharing(device: torch.device, devices: int) -> int:
    """How many of a machine's `devices` of this kind lie in one memory: of CPU processes all, a GPU has its own."""
    return devices if device.type == "cpu" else 1


def usual_room(device: torch.device | str, neighbours: int = 1) -> int:
    """Bytes for decoded frames unless they are given: half of what is free, shared by the devices of a machine.

    Rounded down to one of eight steps between two powers of two, so that the same command usually gets the same, and
    with it the same order of states, although what is free is never twice the same.
    """
    room = available_memory(device) // 2 // neighbours
    step = 1 << max(room.bit_length() - 4, 0)
    return room // step * step


def _within_limits(groups: Path, said: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What is left of control groups' limits, which psutil does not know of; files cached in them can be given up.

    Args:
        groups: where the groups are mounted; in a container that is its own group.
        said: which groups this process is in, and so in all around them: a job of SLURM's, say.
    """
    lines = said.read_text().splitlines() if said.is_file() else []
    own = [(names.split(","), path.strip("/")) for _, names, path in (line.split(":", 2) for line in lines)]
    for name, mount, limit, usage, cached in CONTROL_GROUPS:
        root = groups / mount
        mine = [root / path for names, path in own if name in names and ".." not in path]
        around = {folder for path in mine for folder in path.parents if folder.is_relative_to(root)}
        for folder in {root, *mine, *around}:
            try:
                most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
                rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield most - used + int(rows.get(cached, 0))
            except (OSError, ValueError):  # no such file; or "max", which is no limit
                continue
