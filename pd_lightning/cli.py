"""The command line."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from pd_lightning.callbacks import Rollouts


class DistillationCLI(LightningCLI):
    """LightningCLI with the data's games linked to the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links what one side knows to the side that needs it."""
        parser.add_lightning_class_args(Rollouts, "rollouts")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.save_top_k": -1})
        parser.link_arguments("data.actions", "model.init_args.games", apply_on="instantiate")


def main() -> None:
    """Runs the command line."""
    DistillationCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
    )
