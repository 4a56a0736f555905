"""Which weights were the best: by what score, and how good it is by now."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from pd_lightning.callbacks.stopping import MEASURED, check_monitor
from pd_lightning.trainers import is_dry


class Best:
    """The best score so far, and where the weights that it was measured on are kept.

    Attributes:
        key: of the score, rollout/pong/return or val/pong/agreement, say; none, if no weights are kept by a score.
        sign: 1 if more is better, -1 if less is.
        score: the best so far.
        path: of the weights that have it.

    Raises:
        ValueError: the score is none of this project's.
    """

    def __init__(self, key: str | None, mode: Literal["max", "min"]) -> None:
        if key and not key.startswith(MEASURED):
            raise ValueError(f"checkpoint.monitor is {key!r}: choose a rollout/... or val/... score")
        self.key, self.sign = key, 1 if mode == "max" else -1
        self.score: float | None = None
        self.path = ""

    def check(self, trainer: pl.Trainer) -> None:
        """Raises a ValueError if the score will never be measured, or in the middle of an update."""
        if self.key is None:
            return
        check_monitor("checkpoint.monitor", self.key, trainer)
        batches, looks = trainer.accumulate_grad_batches, getattr(trainer, "val_check_interval", None)  # a time: none
        if self.key.startswith("val/") and isinstance(looks, int) and looks % batches:
            raise ValueError(
                f"checkpoint.monitor is {self.key!r}, and it is measured every {looks} batches, of which an update has "
                f"{batches}: give --trainer.val_check_interval a multiple of {batches}"
            )

    def beaten(self, trainer: pl.Trainer, measured: str, ended: bool = False) -> bool:
        """Takes the newest score; whether it is the best so far.

        Args:
            trainer: of the run.
            measured: how the keys begin that were measured just now.
            ended: training is over, and it was the last weights that were measured.

        Raises:
            ValueError: the score is not among them.
        """
        dry = trainer.sanity_checking or is_dry(trainer)
        fitting = (trainer.state.fn == TrainerFn.FITTING or ended) and not dry
        if not fitting or self.key is None or not self.key.startswith(measured):
            return False
        scores = trainer.callback_metrics
        if self.key not in scores:
            known = ", ".join(sorted(key for key in scores if key.startswith(MEASURED)))
            raise ValueError(f"checkpoint.monitor is {self.key!r}: choose one of {known}")
        score = float(scores[self.key])
        if math.isnan(score):  # a percentage of nothing, say: neither better nor worse
            return False
        if self.score is not None and self.sign * score <= self.sign * self.score:
            return False
        self.score = score
        return True

    def state_dict(self) -> dict[str, Any]:
        """What is to be beaten."""
        return {"best_score": self.score, "best_path": self.path, "score_key": self.key, "sign": self.sign}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As it was saved, unless it was a score of another kind."""
        if (state.get("score_key"), state.get("sign")) == (self.key, self.sign):
            self.score, self.path = state.get("best_score"), state.get("best_path", "")
