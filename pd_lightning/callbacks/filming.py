"""A film of each game when a run ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from pd_lightning.atari import named_protocol
from pd_lightning.bounds import check_at_least
from pd_lightning.callbacks.playing import playing
from pd_lightning.callbacks.rollouts import fire_rule
from pd_lightning.film import film, gif, write_mp4
from pd_lightning.folder import run_folder

BEGINNING = 450
"""Pictures that TensorBoard gets: half a minute."""


class Film(Callback):
    """Films one episode of each game when fit ends: an mp4 in the run's folder, its beginning in TensorBoard.

    Args:
        enabled: whether to film at all.
        protocol: rules of play: paper, nature or machado.
        fire: press FIRE for the player at a start and after a lost life (default: as for the teacher).
        seed: of the episode.
        steps: at most so many decisions; 4,500 are five minutes of play.
    """

    def __init__(
        self, enabled: bool = True, protocol: str = "paper", fire: bool | None = None, seed: int = 0, steps: int = 4500
    ) -> None:
        named_protocol(protocol)
        check_at_least(1, "--film.", steps=steps)
        check_at_least(0, "--film.", seed=seed)
        self.enabled, self.protocol, self.fire, self.seed, self.steps = enabled, protocol, fire, seed, steps
        self.paths: list[Path] = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Plays and films, on the first rank alone."""
        folder = run_folder(trainer)
        if self.enabled and trainer.is_global_zero and folder:
            for game, policy in pl_module.policies().items():  # pyright: ignore[reportCallIssue]
                rules = {"protocol": self.protocol, "fire": fire_rule(trainer, game, self.fire)}
                with playing(trainer, pl_module):
                    whole = film(policy, game, self.seed, **rules, steps=self.steps, title=game)
                    pictures = until_stopped(trainer, whole)
                    beginning = list(itertools.islice(pictures, BEGINNING))
                    try:
                        write_mp4(folder / f"{game}.mp4", itertools.chain(beginning, pictures))
                        self.paths.append(folder / f"{game}.mp4")
                    except OSError as error:  # weights and scores are worth more
                        rank_zero_warn(f"no film of {game}: {error}")
                show_in_tensorboard(trainer, f"film/{game}", beginning)
        trainer.strategy.barrier("film")


def until_stopped(trainer: pl.Trainer, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pictures, until a signal ends the run, which it could else do only after the film."""
    for picture in pictures:
        if trainer.received_sigterm and trainer.world_size == 1:  # others would wait for this one
            raise SIGTERMException
        yield picture


def show_in_tensorboard(trainer: pl.Trainer, tag: str, pictures: Sequence[np.ndarray]) -> None:
    """Puts pictures uint8 [H, W, 3] into TensorBoard as a GIF (`add_video` would need another library)."""
    for logger in trainer.loggers if pictures else ():
        if isinstance(logger, TensorBoardLogger):
            height, width, _ = pictures[0].shape
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif(pictures))
            summary = Summary(value=[Summary.Value(tag=tag, image=image)])
            logger.experiment._get_file_writer().add_summary(summary, trainer.global_step)
