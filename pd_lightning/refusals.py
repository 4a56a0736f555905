"""What the Trainer offers and this project cannot keep its promises with: refused before anything is computed."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from pd_lightning.checkpoints import explicit_model_options
from pd_lightning.resuming import fits_in_passing_processes
from pd_lightning.trainers import callbacks_of


def refuse_unused(config: Any, words: list[str]) -> None:
    """Options of the usual optimizer beside another one, and a schedule without one, would be passed over.

    Args:
        config: of the subcommand.
        words: of the command line.

    Raises:
        ValueError: there is one; the message says what to give instead.
    """
    if config.get("lr_scheduler") and not config.get("optimizer"):
        raise ValueError("--lr_scheduler is for another optimizer than the usual one: give --optimizer CLASS too")
    unused = explicit_model_options(words, []) & {"learning_rate", "warmup"} if config.get("optimizer") else ()
    for name in unused:
        raise ValueError(
            f"--model.{name} is for the usual optimizer: leave it out, and give --optimizer.lr or --lr_scheduler"
        )


def refuse_strategy(trainer: pl.Trainer, name: str) -> None:
    """Raises a ValueError if scores and weights would be lost with a Trainer's strategy, or nobody could play."""
    if fits_in_passing_processes(trainer):
        raise ValueError(f"--trainer.strategy {name} leaves scores and weights in processes that end: choose ddp")
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ValueError(
            f"--trainer.strategy {name} shards the network, and scores take the whole of it on each device: choose ddp"
        )


def refuse_search(trainer: pl.Trainer, by_itself: bool) -> None:
    """Raises a ValueError if a run that goes on has a callback which tries things out and then begins anew.

    Args:
        trainer: of the run.
        by_itself: it goes on as its job was queued again, and nobody is there to mend its command: the callback is
            left out.
    """
    for each in list(callbacks_of(trainer)):
        if isinstance(each, LearningRateFinder | BatchSizeFinder):
            if by_itself:
                callbacks_of(trainer).remove(each)
                continue
            raise ValueError(
                f"{type(each).__name__} would begin the run anew: leave it out where --ckpt_path goes on (what it has "
                "found is in the checkpoint)"
            )


def refuse_old_scores(trainer: pl.Trainer, monitor: str) -> None:
    """Raises a ValueError if what ReduceLROnPlateau waits for is not new at each epoch's end, when it is asked."""
    if trainer.check_val_every_n_epoch != 1 or not monitor.startswith("val/"):
        raise ValueError(
            f"ReduceLROnPlateau asks for {monitor!r} after each epoch: give --lr_scheduler.monitor a val/... score, "
            "and validate then: --trainer.val_check_interval null --trainer.check_val_every_n_epoch 1"
        )
