"""What students and teachers have in common: a network that learns, plays, and goes on from a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pd_lightning.episodes import Policy, policy_of
from pd_lightning.resuming import (
    datamodule_of,
    forget_raw_weights,
    name_class,
    refuse_passing_processes,
    renew_rate,
)
from pd_lightning.trainers import keep_float32


def adam(parameters: Iterable[Tensor], rate: float) -> torch.optim.Adam:
    """Adam in one pass over the weights, where torch usually takes ten on a CPU, and tens of kernels on a GPU."""
    return torch.optim.Adam(parameters, lr=rate, fused=True)


def network_of(module: Any) -> Any:
    """What a module trains: its `student` or its `network`; of one that has neither, all of it."""
    return getattr(module, "student", None) or getattr(module, "network", None) or module


class Agent(pl.LightningModule):
    """A module whose `student` or `network` learns.

    Attributes:
        learning_rate: the highest.
        begun: its input is centred: by an earlier fit, a checkpoint, or whoever had its weights.
        fire: whether FIRE is pressed when it plays, by game.
    """

    learning_rate: float

    def __init__(self) -> None:
        super().__init__()
        self.begun = False
        self.fire: dict[str, bool] = {}
        self._schedule: Any = None

    def setup(self, stage: str) -> None:
        """Centres each game's input on what the data say of it, once: then the checkpoint knows.

        Raises:
            ValueError: there is no data module, or only weights would come back from the fit.
        """
        keep_float32(self.trainer)
        if stage != "fit":
            return
        refuse_passing_processes(self.trainer)
        for game, (mean, deviation) in datamodule_of(self).statistics().items() if not self.begun else ():
            network_of(self).centre(game, mean, deviation)
        self.begun = True

    def on_train_start(self) -> None:
        """A resumed run may be longer than the one before, which left its own learning rate behind: perhaps 0."""
        renew_rate(self.lr_schedulers(), self._schedule, self.learning_rate)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """What is logged by updates counts them: where a run goes on, Lightning may have skipped one too many."""
        loop: Any = self.trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = self.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """How it is to play, and what class it is, go along."""
        checkpoint["fire"] = dict(self.fire)
        name_class(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As it was saved."""
        self.fire, self.begun = dict(checkpoint.get("fire", {})), True
        forget_raw_weights(self, checkpoint)

    def policies(self) -> dict[str, Policy]:
        """Who plays which game when scores are taken, in the precision of training."""
        context = self._trainer.precision_plugin.forward_context if self._trainer else contextlib.nullcontext
        network = network_of(self)
        return {game: policy_of(network, game, context) for game in network.games}

    def scheduled(self, optimizer: torch.optim.Optimizer, share: Callable[[int], float]) -> dict[str, Any]:
        """An optimizer for Lightning, whose learning rate is a share of the highest by the number of the update."""
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By norm or value, as the Trainer says; of fused optimizers too, which Lightning refuses in mixed ones."""
        if not gradient_clip_val:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of 16-mixed
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # its step would, after they were clipped; others' Lightning has unscaled
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
