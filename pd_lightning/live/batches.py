"""The batches of a live run, update after update."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl

from pd_lightning.episodes import Policy, policy_of
from pd_lightning.live.collector import Collector
from pd_lightning.streaming import Batch


class LiveBatches:
    """What the Trainer iterates over: one iteration is one epoch.

    Without a state of its own: Lightning would save that once more, as a loader's, beside the data module's.

    Args:
        collector: who plays.
        trainer: of the run.
    """

    def __init__(self, collector: Collector, trainer: pl.Trainer) -> None:
        self._collector, self._trainer = collector, trainer

    def __len__(self) -> int:
        """Updates in an epoch."""
        return self._collector.settings.updates

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        """Batches of one epoch.

        Raises:
            ValueError: a teacher that learns would begin in the middle of a run.
        """
        first = self._trainer.fit_loop.total_batch_idx + 1
        if self._collector.began is None:
            if first and self._collector.settings.learn:
                raise ValueError(
                    "the checkpoint's student has learned without this teacher, which learns over a whole run: start "
                    "anew without --ckpt_path, or choose --data.learn false"
                )
            self._collector.began = first
        for update in range(first - self._collector.began, first - self._collector.began + len(self)):
            yield self._collector.advance(update, self._students)

    def _students(self) -> dict[str, Policy]:
        """The student as it is now: it goes on learning while this one plays."""
        module: Any = self._trainer.lightning_module
        student = copy.deepcopy(module.student).eval()
        context, games = self._collector.process.context, self._collector.settings.games
        return {game: policy_of(student, game, context) for game in games}
