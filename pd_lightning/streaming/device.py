"""Decoded frames in the memory of a GPU: they cross the bus once and one by one, not four times and once per epoch."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pd_lightning.blocks import CHUNK, STACK
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.window import PIXELS, Window


class DeviceWindow(Window):
    """The same in the memory of a device: threads decode into pinned memory, from which it is copied asynchronously.

    Copies and gathers are queued on one stream of the device, so none overtakes another.

    Args:
        blocks: what is read.
        slots: how many pieces it holds.
        steps: most states in a piece.
        workers: threads that decode.
        device: where the frames are.
    """

    def __init__(self, blocks: Blocks, slots: int, steps: int, workers: Executor, device: torch.device) -> None:
        self.device = device
        super().__init__(blocks, slots, steps, workers)

    def _make_room(self) -> None:
        self._on_device = torch.empty((self.slots, self.depth, PIXELS), dtype=torch.uint8, device=self.device)

    def _decode(self, slots: list[int], pieces: list[list[int]]) -> Tensor:
        # torch keeps pinned memory for the next one who asks, once the copy out of it is done.
        pinned = self.device.type == "cuda"
        frames = torch.empty((len(pieces), self.depth, *CHUNK[1:]), dtype=torch.uint8, pin_memory=pinned)
        self._fill(frames.numpy(), pieces)
        return frames

    def _settle(self, slots: np.ndarray, frames: Tensor | None) -> None:
        assert frames is not None
        for slot, piece in zip(slots.tolist(), frames.flatten(2), strict=True):
            self._on_device[slot].copy_(piece, non_blocking=True)

    def room(self, count: int) -> Any:
        """Memory of the device; its allocator keeps what is freed."""
        return torch.empty((count, STACK, *CHUNK[1:]), dtype=torch.uint8, device=self.device)

    def gather(self, frames: np.ndarray, room: Any) -> None:
        """As `Window.gather`."""
        flat = self._on_device.view(-1, PIXELS)
        torch.index_select(flat, 0, to_device(frames, self.device), out=room.view(-1, PIXELS))

    def tensor(self, room: Any) -> Tensor:
        """What was gathered."""
        return room


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A small array on a device, without waiting for it."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
