"""Runs of several processes stop together; and what waits for a score is asked only when there is a new one."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException

MEASURED = ("rollout/", "val/")
"""How the keys of scores begin that weights can be chosen by, or training stopped."""
EVERY = 8
"""Batches between two looks: ranks must wait for each other to look."""


class StopTogether(Callback):
    """SIGTERM to any process of a run, or to all of them, stops all after the same batch.

    Lightning's own handler talks to the other ranks from inside the signal, whatever they are at: they may wait for
    each other for ever.
    """

    def __init__(self) -> None:
        self._asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the place of Lightning's handler, which it puts back itself once the run has ended."""
        self._asked = False
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # noqa: ANN001
        """Stops all ranks if one was asked to."""
        if trainer.world_size == 1 or batch_idx % EVERY:
            return
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            raise SIGTERMException


def check_monitor(name: str, key: str, data: Any) -> None:
    """Raises a ValueError if a score (`val/...` or `rollout/...`), an option's value, will never be measured."""
    if not key.startswith(MEASURED) or not hasattr(data, "actions"):
        return
    kind, game, *rest = key.split("/")
    if rest and game not in data.actions:
        raise ValueError(f"{name} is {key!r}: the games are {', '.join(data.actions)}")
    if kind == "val" and not getattr(data, "held_out", None):
        raise ValueError(
            f"{name} is {key!r}, but nothing is held out: choose a rollout/... score, or --data.validation above 0 of "
            "a recording"
        )


def check_early_stopping(trainer: pl.Trainer, every_n_updates: int) -> None:
    """Raises a ValueError if an EarlyStopping waits for what is never measured, or takes old scores for new ones.

    It looks after each validation; a score by play that was not taken anew would count as one that is no better.
    """
    for each in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(each, EarlyStopping):
            continue
        check_monitor("EarlyStopping's monitor", each.monitor, trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.check_val_every_n_epoch is not None or each._check_on_train_epoch_end:  # it looks once an epoch
            continue
        batches, looks = every_n_updates * trainer.accumulate_grad_batches, trainer.val_check_interval
        if each.monitor.startswith("rollout/") and (not batches or looks % batches):
            raise ValueError(
                f"EarlyStopping's monitor is {each.monitor!r}, and it looks after each validation: there must be a new "
                "score each time; give --trainer.val_check_interval a multiple of --rollouts.every_n_updates"
            )
