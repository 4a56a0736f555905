"""What students and teachers share of optimizers."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor


def adam(parameters: Iterable[Tensor], rate: float) -> torch.optim.Adam:
    """Adam in one pass over the weights, where torch usually takes ten on a CPU, and tens of kernels on a GPU."""
    return torch.optim.Adam(parameters, lr=rate, fused=True)


class Clipping(pl.LightningModule):
    """A module whose gradients can be clipped with a fused optimizer too, which Lightning's mixed precision refuses."""

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By norm or value, as the Trainer says."""
        if not gradient_clip_val:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of 16-mixed
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # its step would, after they were clipped; others' Lightning has unscaled
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
