"""What tests of recorded data set up: data with a trainer, and a module that notes what it is given."""

from hashlib import sha256

import numpy as np
import pytorch_lightning as pl
import torch
from conftest import quiet_trainer
from torch.nn.functional import mse_loss

from pd_lightning.blocks import CHUNK
from pd_lightning.datamodule import TeacherDatasets

BOTH = ["pong", "breakout"]


def attached(root, **options):
    """A data module as it is once a fit has begun."""
    data = TeacherDatasets(str(root), **{"games": BOTH, "batch_size": 50, "validation": 0.2, **options})
    data.trainer = quiet_trainer()
    data.setup("fit")
    return data


def digest(batch):
    """What a batch holds, game by game."""
    return {game: sha256(part.states.numpy().tobytes() + part.teacher_q.numpy().tobytes()) .hexdigest()[:12]
            for game, part in batch.items()}  # fmt: skip


class Watched(pl.LightningModule):
    """A student so small that it costs nothing, which remembers what it was trained on."""

    def __init__(self, games):
        super().__init__()
        torch.manual_seed(0)
        self.heads = torch.nn.ModuleDict({game: torch.nn.Linear(4 * 7 * 7, actions) for game, actions in games.items()})
        self.seen = []

    def loss(self, batch):
        pixels = {game: part.states[:, :, ::12, ::12].flatten(1) / 255 for game, part in batch.items()}
        return sum(mse_loss(self.heads[game](pixels[game]), part.teacher_q) for game, part in batch.items())

    def training_step(self, batch, batch_idx):
        self.seen.append(digest(batch))
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def data_of(root, **options):
    """Eight batches an epoch; pong flows through, breakout is decoded once."""
    memory = 14 * np.prod(CHUNK) / 2**30  # a number of numpy's, as notebooks have them
    return TeacherDatasets(
        str(root), **{"games": BOTH, "batch_size": 60, "validation": 0.2, "memory": memory, **options}
    )


def fit(root, kind=Watched, ckpt_path=None, data=None, **options):
    """Three epochs; returns the module."""
    data = data or data_of(root)
    module = kind(data.actions)
    quiet_trainer(**{"max_epochs": 3, **options}).fit(module, data, ckpt_path=ckpt_path)
    return module
