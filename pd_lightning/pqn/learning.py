"""The network that learns from its own play."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from pd_lightning.agent import Agent, adam
from pd_lightning.episodes import Policy, policy_of
from pd_lightning.networks import QNetwork
from pd_lightning.pqn.games import Minibatch, check_learning
from pd_lightning.pqn.threads import context_beside
from pd_lightning.resuming import batches_trained, datamodule_of, to_python
from pd_lightning.teacher import load_teacher
from pd_lightning.trainers import data_of

LOGITS_TO_Q = 0.01
"""What a student's logits are multiplied by where no temperature is known: the paper's temperature."""


def squared_error(network: QNetwork, batch: Minibatch) -> Tensor:
    """Half the mean squared distance of a network's Q-values to the targets, for the actions that were played."""
    (q,) = network(batch.states).values()
    return F.mse_loss(q.gather(1, batch.actions[:, None])[:, 0], batch.targets) / 2


def falling_share(update: int, warmup: int, total: float) -> float:
    """What the learning rate is, of that which it falls from, to zero after `total`; lower in the first `warmup`."""
    return min((update + 1) / max(warmup, 1), 1.0) * max(0.0, 1 - update / max(total, 1))


def refuse_float16(trainer: pl.Trainer) -> None:
    """Raises a ValueError where a teacher would not learn.

    In 16-mixed gradients are scaled, and would be clipped as they are, 65,536 times too large; in 16-true Adam divides
    by nothing.
    """
    if trainer.precision == "16-true" or getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ValueError(
            f"precision is {trainer.precision}, in which a teacher does not learn: choose --trainer.precision "
            "bf16-mixed or 32-true"
        )


def begin_with(network: QNetwork, file: str) -> bool:
    """Gives a network the weights of a file: of one of ours, of the same game, size and kind.

    Logits of a student of kl are its teacher's Q-values over the temperature, but for a number for each state; times
    that temperature they are a beginning for Q-values.

    Returns:
        Whether FIRE was pressed for whoever had them.

    Raises:
        ValueError: they are of another network.
        TeacherError: the file is missing, broken or of another game.
    """
    ((game, _),) = network.games.items()
    if "://" not in file and not Path(file).exists():
        raise ValueError(
            f"weights is {file}, which is not there: choose --model.weights, a student's checkpoint or a teacher's file"
        )
    found = load_teacher(file, game)
    other = found.network
    if not isinstance(other, QNetwork):
        raise ValueError(f"{file}: is of another library; choose --model.weights among files of pd_lightning")
    if (other.size, other.trunk.layer_norm) != (network.size, network.trunk.layer_norm):
        raise ValueError(
            f"{file}: size is {other.size}, layer_norm {other.trunk.layer_norm}, here {network.size} and "
            f"{network.trunk.layer_norm}; give --model.size {other.size} --model.layer_norm "
            f"{str(other.trunk.layer_norm).lower()}"
        )
    network.load_state_dict(other.state_dict())
    if found.outputs == "logits":
        scale = float(found.about.get("temperature", LOGITS_TO_Q))
        with torch.no_grad():
            for parameter in network.heads[game].output.parameters():  # pyright: ignore
                parameter.mul_(scale)
    return found.fire


class PQN(Agent):
    """The teacher while it learns.

    Args:
        games: number of actions of the one game, taken from the data.
        size: widths of the network, one of `pd_lightning.networks.SIZES`.
        learning_rate: from which Adam's falls linearly to zero at the end of the run.
        warmup: updates over which it rises linearly to what it has fallen to meanwhile. Adam with
            2 / (1 - beta2) = 2,000 of them does what RAdam does (Ma and Yarats, 2021, arXiv 1910.04209), of PQN's
            paper, in a fifth of its time.
        layer_norm: normalise every layer, which keeps learning stable; students have none.
        weights: a file to begin with instead of nothing: a teacher, to be trained on, or a student's checkpoint, to be
            improved by reward. Size and layer_norm must be the file's.

    Raises:
        ValueError: there are several games, a rate makes no sense, or the weights are not of this game and
            architecture.
        TeacherError: their file is missing or broken.
    """

    def __init__(
        self,
        games: dict[str, int],
        size: str = "dqn",
        learning_rate: float = 2.5e-4,
        warmup: int = 2000,
        layer_norm: bool = True,
        weights: str | None = None,
        _class_path: str = "",  # of a checkpoint: see `name_class`; a subclass that takes anything hands it on
    ) -> None:
        super().__init__()
        if len(games) != 1:
            raise ValueError(f"a teacher learns one game, not {', '.join(games) or 'none'}")
        check_learning({"learning_rate": learning_rate, "warmup": warmup}, "--model.")
        games, learning_rate, warmup = to_python(games), to_python(learning_rate), to_python(warmup)
        self.save_hyperparameters(ignore=["weights", "_class_path"])  # a checkpoint has weights of its own
        self.network = QNetwork(games, size, layer_norm)
        self.learning_rate, self.warmup = learning_rate, warmup
        self.steps_before: int | None = None  # that a checkpoint has learned from
        if weights is not None:
            self.begun, self.fire = True, dict.fromkeys(games, begin_with(self.network, weights))

    def setup(self, stage: str) -> None:
        """Centres the input on random play, once, and not if the weights that it began with know better.

        Raises:
            ValueError: the precision is float16's, or only weights would come back.
        """
        if stage == "fit":
            refuse_float16(self.trainer)
        super().setup(stage)

    def on_fit_start(self) -> None:
        """Takes the data's rules of play: a checkpoint may have been trained by others."""
        self.fire = datamodule_of(self).fire_rules()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds how long the teacher has learned."""
        super().on_save_checkpoint(checkpoint)
        trainer: Any = self._trainer  # none, if it is saved by other means
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "steps_after"):
            checkpoint["steps"] = int(data.steps_after(batches_trained(trainer), trainer.world_size))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As it was saved."""
        super().on_load_checkpoint(checkpoint)
        self.steps_before = checkpoint.get("steps")

    def snapshot(self, game: str) -> Policy:
        """The network as it is now, as a player in a thread: it does not learn any more."""
        return policy_of(copy.deepcopy(self.network), game, context_beside(self.trainer))

    def training_step(self, batch: Minibatch, batch_idx: int) -> Tensor:
        """Half the squared distance to the targets, for the actions that were played."""
        loss = squared_error(self.network, batch)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/q", batch.targets.mean())
        returns: list[float] = data_of(self.trainer).returns
        if returns:
            self.log("train/clipped_return", float(np.mean(returns)), prog_bar=True, batch_size=len(returns))
            returns.clear()
        return loss

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Nothing: see `ParallelPlay.test_dataloader`."""

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam, and a learning rate that falls linearly to zero after a warm-up."""
        share = partial(falling_share, warmup=self.warmup, total=self.trainer.estimated_stepping_batches)
        return self.scheduled(adam(self.parameters(), self.learning_rate), share)
