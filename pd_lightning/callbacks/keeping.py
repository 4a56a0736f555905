"""Which weights a run keeps: the newest, and the best by a score (`best`)."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from pd_lightning.callbacks.atomic import write_atomically
from pd_lightning.callbacks.best import Best
from pd_lightning.callbacks.playing import refuse_late_average
from pd_lightning.callbacks.stopping import is_last_update, within_update
from pd_lightning.resuming import ResumeError, refuse_changes, refuse_unloadable
from pd_lightning.trainers import callbacks_of, data_of, is_dry


class Checkpoint(ModelCheckpoint):
    """Keeps the newest weights, to go on from after a kill; with `monitor` also those of the best score, as best.ckpt.

    A score counts only for the weights that it was measured on. (Lightning's own `ModelCheckpoint` credits it to those
    that it saves next.)

    Args:
        monitor: the score, rollout/pong/return or val/pong/agreement, say; without one there is no best.ckpt.
        mode: max if more is better, min if less is.
        save_last: keep the newest weights as last.ckpt.
        save_top_k: what else is kept of weights that were saved: nothing (0), the newest under their update's number
            (1), or all (-1).

    Raises:
        ValueError: the score is none of this project's; several are to be kept by it; or nothing at all.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        save_last: bool = True,
        save_top_k: int = 0,
        **kwargs: Any,
    ) -> None:
        self.best = Best(monitor, mode)
        if save_top_k not in (-1, 0, 1):
            raise ValueError(
                f"checkpoint.save_top_k is {save_top_k}: by --checkpoint.monitor the best weights are kept, best.ckpt, "
                "and apart from them last.ckpt alone (0), the newest (1), or all that were saved (-1)"
            )
        if not (save_last or save_top_k or monitor):
            raise ValueError(
                "checkpoint.save_last is False and checkpoint.save_top_k 0, so no weights would be kept: give one of "
                "them, or --trainer.enable_checkpointing false"
            )
        super().__init__(save_last=save_last, save_top_k=save_top_k, **kwargs)
        self._newest = ""
        self._kept_as = "", 0  # what was saved last, and after how many updates
        self._before: dict[str, str] = {}
        self._fits = True

    @property
    def state_key(self) -> str:
        """One for each score, so that a run may keep the best by several; how often weights are saved may change."""
        return f"{type(self).__name__}, {self.best.key}, {self.best.sign}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses, before anything is computed, what would go wrong later.

        Raises:
            ValueError: the score will never be measured, no checkpoint could be loaded again, or weights are averaged
                in a way that none would hold.
        """
        given = str(self.dirpath or "")  # where Lightning chooses one, that of the logs was made
        if stage == "fit" and given and "://" not in given and not is_dry(trainer):  # all ranks: one alone would wait
            check_folder(Path(given))
        super().setup(trainer, pl_module, stage)
        self._fits, self._before = stage == "fit", {}
        write_atomically(trainer)
        if stage == "fit":
            refuse_unloadable(pl_module, data_of(trainer))
            refuse_late_average(trainer)
            self.best.check(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that goes on does so with its seed and its optimizer, whose state would not fit another."""
        now = {key: value for key, value in _described(trainer).items() if key in self._before}
        refuse_changes(self._before, now, "--seed_everything and --optimizer")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What a run goes on from need not be saved again, in the middle of the next update perhaps."""
        super().on_train_start(trainer, pl_module)
        self.best_model_path = self._newest or self.best_model_path
        self._last_global_step_saved = trainer.global_step
        self._kept_as = str(trainer.ckpt_path or ""), trainer.global_step

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        """Lightning's; notes what was saved once it was."""
        super()._save_checkpoint(trainer, filepath)
        self._kept_as = filepath, trainer.global_step

    def _save_topk_checkpoint(self, trainer: pl.Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Lightning's; but where that keeps nothing, last.ckpt is due all the same at the end of an epoch."""
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self.save_top_k == 0 and self.save_last:
            self._last_global_step_saved = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # noqa: ANN001
        """Lightning's, but time is not up within an update."""
        if not within_update(trainer, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Also saves the last weights, which need not come when some are due; before an average takes their place."""
        super().on_train_epoch_end(trainer, pl_module)
        dry = is_dry(trainer)
        if self.save_last and (trainer.should_stop or is_last_update(trainer)) and not dry:
            self.last_model_path = self.last_model_path or self._free(trainer, "last")
            self.save(trainer, self.last_model_path)
            self._last_checkpoint_saved, self._last_global_step_saved = self.last_model_path, trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds what a run that goes on must not change.

        Raises:
            ValueError: the weights are nothing to go on with; what was kept before stays.
        """
        if not all(parameter.isfinite().all() for parameter in pl_module.parameters()):
            raise ValueError(
                f"after {trainer.global_step:,} updates weights are not finite numbers: lower the learning "
                f"rate (--model.learning_rate), or clip gradients (--trainer.gradient_clip_val 10); {self._kept()}"
            )
        checkpoint["run"] = _described(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remembers it until the optimizers are there.

        Raises:
            ResumeError: its weights are averages, which learning does not go on from.
        """
        averages = any(isinstance(each, WeightAveraging) for each in callbacks_of(trainer))
        if "current_model_state" in checkpoint and trainer.state.fn == TrainerFn.FITTING and not averages:
            raise ResumeError(
                "cannot resume: the checkpoint's weights are averages, and learning goes on from others: give the "
                "callback that averaged them (EMAWeightAveraging) as it was, or start anew without --ckpt_path"
            )
        self._before = checkpoint.get("run", {})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The weights have just been validated."""
        super().on_validation_end(trainer, pl_module)
        self.judge(trainer, "val/")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning would save even in a dry run."""
        if not is_dry(trainer):
            super().on_train_end(trainer, pl_module)
        self._newest = self.best_model_path
        self._name_best()

    def _name_best(self) -> None:
        """From now on the best weights are what Lightning's `ckpt_path="best"` loads; without a score, the newest.

        Not before: of `best_model_path` Lightning deletes the file when it saves newer weights.
        """
        if self.best.path and self.best.score is not None and self._fs.exists(self.best.path):
            self.best_model_path, self.best_model_score = self.best.path, torch.tensor(self.best.score)
        elif self.save_top_k == 0:
            self.best_model_path = self.last_model_path

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Says from where a run that is interrupted can go on."""
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            rank_zero_info(f"stopped after {trainer.global_step:,} updates; {self._kept()}")

    def _kept(self) -> str:
        """From where a run can go on."""
        kept, updates = self._kept_as
        there = bool(kept) and self._fs.exists(kept)
        goes_on = f"the same command with --ckpt_path {kept} goes on from update {updates:,}"
        return goes_on if there else "no checkpoint was due yet"

    def judge(self, trainer: pl.Trainer, measured: str, ended: bool = False) -> None:
        """Keeps the weights if theirs is the best score so far; the arguments as `Best.beaten`'s."""
        if self.best.beaten(trainer, measured, ended):
            mine = os.path.dirname(self.best.path) == str(self.dirpath)  # else of the run that this one goes on from
            self.best.path = self.best.path if mine and self.best.path else self._free(trainer, "best")
            self.save(trainer, self.best.path)
            if ended:
                self._name_best()

    def save(self, trainer: pl.Trainer, path: str) -> None:
        """Saves everything.

        Lightning counts an epoch that was cut short (by max_steps, max_time, early stopping) as a whole one once it has
        ended. Whoever went on from there would miss the rest of it: it is saved as the part that it is.
        """
        progress: Any = trainer.fit_loop.epoch_progress.current
        batches = trainer.fit_loop.epoch_loop.batch_progress
        cut = progress.ready == progress.processed > 0 and not batches.is_last_batch
        before = progress.processed, progress.completed
        if cut:
            progress.processed, progress.completed = progress.ready - 1, progress.ready - 1
        trainer.save_checkpoint(path, weights_only=self.save_weights_only)
        self._kept_as = path, trainer.global_step
        progress.processed, progress.completed = before

    def _free(self, trainer: pl.Trainer, name: str) -> str:
        """The first of NAME.ckpt, NAME-v1.ckpt, ... that is not there, on all devices: what other runs left stays."""
        names = (f"{name}-v{number}" if number else name for number in itertools.count())
        paths = (os.path.join(self.dirpath or ".", f"{each}.ckpt") for each in names)
        return next(path for path in paths if not self.file_exists(path, trainer))

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and the score that is to be beaten."""
        return {**super().state_dict(), **self.best.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it was saved; what a checkpoint that is only tested knows of its run says nothing of the files here."""
        if self._fits:
            super().load_state_dict(state_dict)
            self.best.load_state_dict(state_dict)


def check_folder(given: Path) -> None:
    """Raises a ValueError if checkpoints cannot lie there; makes the folder."""
    try:
        given.mkdir(parents=True, exist_ok=True)
        NamedTemporaryFile(dir=given, prefix=".").close()
    except OSError as error:
        raise ValueError(
            f"checkpoint.dirpath is {given}, where nothing can be written ({error.strerror}): choose another "
            "--checkpoint.dirpath"
        ) from None


def _described(trainer: pl.Trainer) -> dict[str, str]:
    """What a run that goes on must not change, where it is known."""
    optimizers = ", ".join(type(getattr(each, "_optimizer", each)).__name__ for each in trainer.optimizers)
    found = {"optimizer": optimizers, "seed_everything": os.environ.get("PL_GLOBAL_SEED", "")}
    return {key: value for key, value in found.items() if value}
