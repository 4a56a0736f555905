"""What a network subtracts from what it sees, and divides it by: a game's mean image and deviation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from pd_lightning.atari import STACK


def mean_image(parts: Iterable[np.ndarray]) -> tuple[Tensor, float]:
    """Mean image float32 [84, 84] and root mean square deviation from it, in grey levels.

    Args:
        parts: images uint8 [n, 84, 84], a few at a time.
    """
    count, total, squares = 0, np.zeros((84, 84)), np.zeros((84, 84))
    for part in parts:
        seen = part.astype(np.float32)  # sums of a few hundred squares of whole numbers below 256 are exact in it
        count += len(seen)
        total += seen.sum(0)
        squares += np.square(seen).sum(0)
    mean = total / count
    deviation = float(np.sqrt(np.maximum(squares / count - mean**2, 0).mean()))
    return torch.from_numpy(mean).float(), deviation


class Centring(nn.Module):
    """Subtracts a game's mean image and divides by its deviation: constants of the data, so buffers, not parameters.

    The mean is kept in whole grey levels and subtracted before anything else: so the difference is exact in bfloat16
    too, where a scaled mean would be rounded to a sixth of a deviation. Before `fit` it maps 0..255 to 0..1, as DQN
    does.

    Attributes:
        mean: grey levels, float32 [84, 84].
        deviation: grey levels, float32, one number.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(84, 84))
        self.register_buffer("deviation", torch.tensor(255.0))

    def fit(self, mean: Tensor, deviation: float) -> None:
        """Takes the statistics of a recording.

        Args:
            mean: mean image in grey levels, [84, 84].
            deviation: root mean square distance of a pixel from the mean image, in grey levels; more than 0.
        """
        if not deviation > 0:
            raise ValueError(f"the states' deviation is {deviation}: all images are equal, nothing can be learned")
        self.mean.copy_(mean.round())
        self.deviation.fill_(deviation)

    def forward(self, states: Tensor) -> Tensor:
        """States uint8 [B, 4, 84, 84] to centred patches [B, 64, 21, 21], in autocast's dtype where it is on.

        Channels last in memory. A patch is 4 x 4 pixels of 4 frames, see `PatchConvolution`.

        Raises:
            ValueError: the states are of another type or shape.
        """
        if states.dtype != torch.uint8 or states.shape[1:] != (STACK, 84, 84):  # bytes of anything would be patches too
            kind = f"{str(states.dtype).removeprefix('torch.')} {list(states.shape)}"
            raise ValueError(f"states are {kind}: give uint8 [B, {STACK}, 84, 84], frames as they are, newest last")
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.mean.dtype
        # Rows of 4 pixels move as one number: an eighth of the time that single bytes take.
        if states.storage_offset() % 4 or not states.is_contiguous():
            states = states.clone(memory_format=torch.contiguous_format)
        rows = states.view(torch.int32).view(-1, STACK, 21, 4, 21).permute(0, 2, 4, 1, 3).contiguous()
        patches = rows.view(torch.uint8).view(-1, 21, 21, 16 * STACK).to(dtype)
        mean = self.mean.view(21, 4, 21, 4).permute(0, 2, 1, 3).reshape(21, 21, 16).repeat(1, 1, STACK)
        return patches.sub_(mean.to(dtype)).mul_(self.deviation.reciprocal().to(dtype)).permute(0, 3, 1, 2)
