"""What students and teachers share of optimizers."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor


def adam(parameters: Iterable[Tensor], rate: float) -> torch.optim.Adam:
    """Adam in one pass over the weights, where torch usually takes ten on a CPU, and tens of kernels on a GPU."""
    return torch.optim.Adam(parameters, lr=rate, fused=True)


def clip(module: pl.LightningModule, optimizer: torch.optim.Optimizer, most: float | None, by: str | None) -> None:
    """Clips gradients as the Trainer says, also those of fused optimizers, which Lightning's mixed precision refuses.

    Args:
        module: whose gradients.
        optimizer: theirs.
        most: `--trainer.gradient_clip_val`; nothing is done without it.
        by: `--trainer.gradient_clip_algorithm`: value, or norm, the default.
    """
    if not most:
        return
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)  # of 16-mixed
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(
            optimizer
        )  # else its step would do that, after they were clipped; others' Lightning has unscaled
    if by == "value":
        torch.nn.utils.clip_grad_value_(module.parameters(), most)
    else:
        torch.nn.utils.clip_grad_norm_(module.parameters(), most)
