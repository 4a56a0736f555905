"""Runs of several processes stop together; and what waits for a score is asked only when there is a new one."""

from __future__ import annotations

import math
import signal
import threading
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException

from pd_lightning.trainers import callbacks_of, data_of

MEASURED = ("rollout/", "val/")
"""How the keys of scores begin that weights can be chosen by, or training stopped."""
EVERY = 8
"""Batches between two looks: ranks must wait for each other to look."""


class StopTogether(Callback):
    """What a signal asks of any process of a run, or of all of them, all do after the same batch.

    SIGTERM stops them; SIGUSR1 is SLURM's, before a job's time is over: Lightning then saves a checkpoint and queues
    the job again. Lightning's own handlers do so from inside the signal, whatever the ranks are at: they may wait for
    each other for ever, or save half an update.
    """

    def __init__(self) -> None:
        self._asked = self._ending = self._agreed = False
        self._stops = False  # at the update's end: time is up, say
        self._save_and_queue: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the place of Lightning's handlers, which it puts back itself once the run has ended."""
        self._asked = self._ending = self._agreed = self._stops = False
        if threading.current_thread() is not threading.main_thread():
            return
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, self._ask)
        if callable(theirs := signal.getsignal(signal.SIGUSR1)):
            self._save_and_queue = theirs
            signal.signal(signal.SIGUSR1, self._note_end)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def _note_end(self, *_: Any) -> None:
        self._ending = True

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # noqa: ANN001
        """Does what one of the ranks was asked to, and has an update that was begun ended first."""
        within, stops = within_update(trainer, batch_idx), self._stops or trainer.should_stop
        self._stops, trainer.should_stop = stops and within, stops and not within

        def any_of(mine: bool) -> bool:
            return mine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(mine, all=False)

        if (trainer.world_size == 1 or batch_idx % EVERY == 0) and any_of(self._asked or self._ending):
            if any_of(self._asked):
                raise SIGTERMException
            self._agreed = True
        if self._agreed and not within and not is_last_update(trainer):  # which is over soon
            self._ending = self._agreed = False
            self._save_and_queue(signal.SIGUSR1, None)


def is_last_update(trainer: pl.Trainer) -> bool:
    """Whether no other follows, by the limits of updates and of epochs."""
    last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
    return trainer.global_step == trainer.max_steps or (trainer.is_last_batch and last_epoch)


def within_update(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a batch that has ended is not the last of its update: its gradients are in no checkpoint."""
    return bool((batch_idx + 1) % trainer.accumulate_grad_batches) and not trainer.is_last_batch


def check_monitor(name: str, key: str, trainer: pl.Trainer) -> None:
    """Raises a ValueError if a score (`val/...` or `rollout/...`), an option's value, will never be measured."""
    data = data_of(trainer)
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
    if kind == "val" and trainer.limit_val_batches == 0:
        raise ValueError(
            f"{name} is {key!r}, which --trainer.limit_val_batches 0 leaves out: choose a rollout/... score"
        )


def check_early_stopping(trainer: pl.Trainer, every_n_updates: int) -> None:
    """Raises a ValueError if an EarlyStopping waits for what is never measured, or takes old scores for new ones.

    It looks after each validation; a score by play that was not taken anew would count as one that is no better.
    """
    for each in callbacks_of(trainer):
        if not isinstance(each, EarlyStopping):
            continue
        check_monitor("EarlyStopping's monitor", each.monitor, trainer)
        if trainer.check_val_every_n_epoch is not None or each._check_on_train_epoch_end:  # it looks once an epoch
            continue
        batches, looks = every_n_updates * trainer.accumulate_grad_batches, trainer.val_check_interval
        if each.monitor.startswith("rollout/") and (not batches or looks % batches):
            raise ValueError(
                f"EarlyStopping's monitor is {each.monitor!r}, and it looks after each validation: there must be a new "
                "score each time; give --trainer.val_check_interval a multiple of --rollouts.every_n_updates"
            )


def check_stopping_by_epochs(trainer: pl.Trainer, every_n_updates: int) -> None:
    """As `check_early_stopping`, of those that look at the ends of epochs, whose length is known once training begins.

    Raises:
        ValueError: not every look finds a new score.
    """
    if trainer.num_training_batches == math.inf:
        return
    updates = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)  # of an epoch
    for each in callbacks_of(trainer):
        if not isinstance(each, EarlyStopping) or not each.monitor.startswith("rollout/"):
            continue
        looks = updates * (1 if each._check_on_train_epoch_end else trainer.check_val_every_n_epoch or 0)
        if looks and (not every_n_updates or looks % every_n_updates):
            raise ValueError(
                f"EarlyStopping's monitor is {each.monitor!r}, and it looks after each {looks} updates: there must be "
                f"a new score each time; give --rollouts.every_n_updates {looks}, or a part of it"
            )
