"""The batches of a live run, update after update."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl

from pd_lightning.episodes import Policy, policy_of
from pd_lightning.live.stage import Stage
from pd_lightning.streaming import Batch


class LiveBatches:
    """What the Trainer iterates over: one iteration is one epoch.

    Without a state of its own: Lightning would save that once more, as a loader's, beside the data module's.

    Args:
        stage: where is played.
        trainer: of the run.
    """

    def __init__(self, stage: Stage, trainer: pl.Trainer) -> None:
        self._stage, self._trainer = stage, trainer

    def __len__(self) -> int:
        """Updates in an epoch."""
        return self._stage.knobs.updates

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        """Batches of one epoch.

        Raises:
            ValueError: a teacher that learns would begin in the middle of a run.
        """
        first = self._trainer.fit_loop.total_batch_idx + 1
        if self._stage.began is None:
            if first and self._stage.knobs.learn:
                raise ValueError(
                    "the checkpoint's student has learned without this teacher, which learns over a whole run: start "
                    "anew without --ckpt_path, or choose --data.learn false"
                )
            self._stage.began = first
        for update in range(first - self._stage.began, first - self._stage.began + len(self)):
            yield self._stage.advance(update, self._students)

    def _students(self) -> dict[str, Policy]:
        """The student as it is now: it goes on learning while this one plays."""
        module: Any = self._trainer.lightning_module
        student = copy.deepcopy(module.student).eval()
        return {game: policy_of(student, game, self._stage.place.context) for game in self._stage.knobs.games}
