"""How far a run is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.progress import Progress


class UpdatesBar(RichProgressBar):
    """Lightning's, but with one bar over all updates of a run, where Lightning begins another with each epoch.

    A run here is usually as long as its number of updates: epochs are many, short and of no interest.
    """

    @property
    def total_train_batches(self) -> int | float:
        """Updates of the whole run; batches of an epoch, if it has no end."""
        updates = self.trainer.estimated_stepping_batches
        return updates if math.isfinite(updates) else super().total_train_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "Updates"

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Goes on with the bar that there is."""
        if self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's, which counts from the number of a batch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Without the number of the run's folder."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}


@contextmanager
def episode_bar(trainer: pl.Trainer, game: str, episodes: int) -> Iterator[Callable[[float], None]]:
    """A progress bar of episodes, beside Lightning's own where that is on the screen; none where bars are switched off.

    Args:
        trainer: of the run.
        game: which is played.
        episodes: how many this rank plays.

    Yields:
        What to call after each episode.
    """
    bar = trainer.progress_bar_callback
    shown = getattr(bar, "progress", None)
    if bar is None or not trainer.is_global_zero:
        yield lambda value: None
    elif isinstance(shown, Progress) and shown.live.is_started:
        task = shown.add_task(f"Playing {game}", total=episodes)

        def advance(value: float) -> None:
            shown.advance(task)
            shown.refresh()  # Lightning's bar is drawn only when it is told to

        yield advance
        shown.remove_task(task)
    else:
        with Progress(transient=True) as own:
            task = own.add_task(f"Playing {game}", total=episodes)
            yield lambda value: own.advance(task)
