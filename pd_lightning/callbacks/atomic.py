"""Checkpoints appear whole or not at all, on any file system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO

from pd_lightning.files import atomic, sync


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the file that is to be, then renames.

    Lightning's own writes to the folder for temporary files first, and copies from there: on another file system a kill
    leaves half a checkpoint in the place of the last whole one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """As Lightning's, to a local file."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as part:
            try:
                with part.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's, of a full disk too
                if not isinstance(why := error.__context__, OSError):
                    raise
                raise OSError(why.errno, why.strerror, str(target)) from None
            sync(part)


def write_atomically(trainer: pl.Trainer) -> None:
    """Has a run's checkpoints written so, unless its strategy has a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpoints()
