"""A module while it plays: nothing of it learns meanwhile, and it is what will be kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytorch_lightning as pl
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn

from pd_lightning.trainers import callbacks_of


def refuse_late_average(trainer: pl.Trainer) -> None:
    """Raises a ValueError if weights are averaged in a way that nobody would score or keep."""
    if any(isinstance(each, StochasticWeightAveraging) for each in callbacks_of(trainer)):
        raise ValueError(
            "StochasticWeightAveraging has its average only after the last score and checkpoint: choose "
            "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging, whose average is scored and kept"
        )


@contextmanager
def playing(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Evaluation mode, then each part in the mode that it had, as some may be frozen; and averaged weights, if any are.

    The averages are also what is validated and saved.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with ExitStack() as stack:
            fitting = trainer.state.fn == TrainerFn.FITTING  # what is tested is what was loaded
            for each in callbacks_of(trainer) if fitting else ():
                if isinstance(each, WeightAveraging):
                    each.on_validation_epoch_start(trainer, module)
                    stack.callback(each.on_validation_epoch_end, trainer, module)
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
