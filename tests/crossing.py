"""A student that does nothing but cross the road of Freeway, and runs of it that take a moment."""

import csv

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from pd_lightning.callbacks import Checkpoint, Rollouts
from pd_lightning.checkpoints import read_checkpoint
from pd_lightning.rollout import Returns


class Chicken(pl.LightningModule):
    """Crosses the road of Freeway only after the updates in `walks`: then, and only then, its return is above 0."""

    def __init__(self, walks):
        super().__init__()
        self.save_hyperparameters()
        self.walks, self.weight = walks, nn.Parameter(torch.zeros(1))

    def policies(self):
        action = int(self.trainer.global_step in self.walks)  # 0 stays, 1 goes up, 2 down
        return {"freeway": lambda states: torch.eye(3)[action].expand(len(states), -1)}

    def training_step(self, batch, batch_idx):
        return self.weight.sum() - 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)  # the weight counts updates, downwards


def trainer_of(folder, updates, *callbacks, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    logger, callbacks = CSVLogger(folder, "", 0), list(callbacks)
    return pl.Trainer(
        accelerator="cpu",
        max_steps=updates,
        logger=logger,
        callbacks=callbacks,
        log_every_n_steps=1,
        **{**quiet, **settings},
    )


def ten_batches():
    return DataLoader([torch.zeros(1)] * 10)  # pyright: ignore[reportArgumentType]


def glance(policy, game, *_, **__):
    """A score without a game: 1 for who walks."""
    walks = policy(torch.zeros(1, 4, 84, 84, dtype=torch.uint8)).argmax(1).numpy() == 1
    return Returns(game, "paper", walks.astype(float), np.ones(1, int), np.ones(1, int), False)


def cross(folder, monkeypatch, walks, mode):
    """A run of seven updates, played after every second one and at the end; returns the best weights."""
    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", glance)
    play = Rollouts(every_n_updates=2, episodes=1)
    keep = Checkpoint("rollout/freeway/return", mode, every_n_train_steps=3)
    trainer_of(folder, 7, play, keep).fit(Chicken(list(walks)), ten_batches())
    best = read_checkpoint(folder / "version_0" / "checkpoints" / "best.ckpt")
    assert best["state_dict"]["weight"] == -best["global_step"]
    with (folder / "version_0" / "returns.csv").open(newline="") as file:
        returns = {int(line["update"]): float(line["return"]) for line in csv.DictReader(file)}
    assert list(returns) == [0, 2, 4, 6, 7]
    assert keep.best.score == returns[best["global_step"]]
    assert best["callbacks"][keep.state_key]["best_path"] == keep.best.path  # it knows where it lies itself
    return returns, best
