"""The newest states of live play: first in, first out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import zstandard
from torch import Tensor

from pd_lightning.atari import STACK
from pd_lightning.streaming import Batch

PIXELS = 84 * 84
STATE_BYTES = PIXELS + STACK + 4 * 18
"""Of a state in memory, for a game of all 18 actions."""


def pack(frames: Tensor) -> Tensor:
    """Frames uint8 of any shape as fewer bytes, uint8 [n]: tens of bytes a frame."""
    packed = zstandard.ZstdCompressor(1).compress(frames.cpu().contiguous().numpy().data)
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """As they were, uint8 of a shape; on the CPU."""
    size = math.prod(shape)
    frames = zstandard.ZstdDecompressor().decompress(packed.numpy().data, max_output_size=size)
    return torch.frombuffer(bytearray(frames), dtype=torch.uint8).view(*shape)


class ReplayBuffer:
    """States of n games that were played side by side, each frame once.

    A state is the frames of this step and of the three before it, but for those that the emulator showed as black:
    before an episode's first frame there is nothing.

    Args:
        capacity: steps of every game; n * capacity states.
        parallel: n.
        actions: A.
        device: where states are kept and batches are made.

    Attributes:
        steps: how many steps of every game came in, those that left again included.
    """

    def __init__(self, capacity: int, parallel: int, actions: int, device: torch.device | str = "cpu") -> None:
        self.capacity, self.parallel, self.steps = capacity, parallel, 0
        self._rows = capacity + STACK - 1  # the oldest state has older frames
        self._frames = torch.zeros(self._rows * parallel + 1, PIXELS, dtype=torch.uint8, device=device)
        self._black = self._rows * parallel  # the last row stays so
        self._shown = np.zeros((self._rows * parallel, STACK), bool)
        self._q = torch.zeros(self._rows * parallel, actions, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        """States that can be learned from."""
        return min(self.steps, self.capacity) * self.parallel

    def add(self, states: Tensor, q: Tensor) -> None:
        """Takes what was played; the oldest states make room.

        Args:
            states: uint8 [T, n, 4, 84, 84], T at most the capacity.
            q: the teacher's, float32 [T, n, A].
        """
        length = len(states)
        rows = torch.arange(self.steps, self.steps + length) % self._rows
        index = (rows[:, None] * self.parallel + torch.arange(self.parallel)).flatten()
        self._shown[index.numpy()] = states.view(-1, STACK, PIXELS).view(torch.int64).numpy().any(2)
        index = index.to(self._frames.device)
        self._frames[index] = states[:, :, -1].reshape(-1, PIXELS).to(self._frames.device)
        self._q[index] = q.reshape(-1, q.shape[-1]).to(self._frames.device)
        self.steps += length

    def batch(self, chosen: np.ndarray) -> Batch:
        """Some of the states.

        Args:
            chosen: their numbers, int64 [B], from 0, the oldest, to `len(self) - 1`, game by game within a step.
        """
        age, game = np.divmod(chosen, self.parallel)
        step = self.steps - min(self.steps, self.capacity) + age
        rows = (step[:, None] + np.arange(1 - STACK, 1)) % self._rows * self.parallel + game[:, None]  # [B, 4]
        seen = torch.from_numpy(np.where(self._shown[rows[:, -1]], rows, self._black)).to(self._frames.device)
        states = self._frames.index_select(0, seen.flatten()).view(-1, STACK, 84, 84)
        return Batch(states, self._q.index_select(0, torch.from_numpy(rows[:, -1]).to(self._q.device)))

    def newest(self, count: int) -> Batch:
        """The last states that came in, at most `count`."""
        return self.batch(np.arange(max(len(self) - count, 0), len(self)))

    def state_dict(self) -> dict[str, Tensor | int]:
        """All of it, packed."""
        return {
            "steps": self.steps,
            "frames": pack(self._frames),
            "shown": torch.from_numpy(self._shown.copy()),
            "q": self._q.cpu().clone(),
        }

    def load_state_dict(self, state: dict) -> None:
        """As it was saved.

        Raises:
            ValueError: it is of another size.
        """
        if state["q"].shape != self._q.shape:
            raise ValueError(f"the memory had {tuple(state['q'].shape)} rows and actions, now {tuple(self._q.shape)}")
        self._frames.copy_(unpack(state["frames"], self._frames.shape))
        self._shown[:] = state["shown"].numpy()
        self._q.copy_(state["q"])
        self.steps = int(state["steps"])
