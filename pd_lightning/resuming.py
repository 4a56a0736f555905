"""A run goes on as it began, and alike on all devices, or says what is different."""

from __future__ import annotations

import io
import math
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from lightning_utilities.core.rank_zero import rank_zero_info

from pd_lightning.trainers import data_of

if TYPE_CHECKING:  # whoever loads a teacher has no need of it, and it takes seconds
    import pytorch_lightning as pl


class ResumeError(ValueError):
    """A run cannot go on from a checkpoint with the data or the settings that it has now."""


def refuse_changes(saved: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raises a ResumeError that names the first setting that is not as it was saved, and `what` to give again."""
    for key, value in now.items():
        if saved.get(key) != value:
            raise ResumeError(
                f"cannot resume: {key} was {saved.get(key)} in the checkpoint and is {value} now; "
                f"give {what} as they were, or start anew without --ckpt_path"
            )


def refuse_other_devices(mine: Mapping[str, str], what: str) -> None:
    """Raises a ValueError on all devices if one has something else than the first: `what` is to be given alike.

    They would wait for each other for ever where one has fewer batches, or learn what others hold out.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, (platform.node(), dict(mine)))
    (first_host, first), *others = every
    for rank, (host, other) in enumerate(others, 1):
        for key, value in first.items():
            if other.get(key) != value:
                raise ValueError(
                    f"{key} is {other.get(key)} for device {rank} (on {host}), and {value} for device 0 (on "
                    f"{first_host}); give all of them the same {what}"
                )


def fits_in_passing_processes(trainer: Any) -> bool:
    """Whether a Trainer's fits are made in processes that end with them (ddp_fork, ddp_spawn)."""
    from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def refuse_passing_processes(trainer: Any) -> None:
    """Raises a ValueError if a fit is to be made in processes that end with it: only weights would come back.

    What is learned beside them (temperatures, rules of play, that the input is centred) would be forgotten. A notebook
    on several devices does so without being asked.
    """
    if fits_in_passing_processes(trainer):
        raise ValueError(
            f"the Trainer's strategy ({trainer.strategy.launcher._start_method}) fits in processes that end with the "
            "fit: all but the weights (temperatures, rules of play, ...) would be lost with them; give the Trainer "
            "devices=1 in a notebook, strategy='ddp' elsewhere"
        )


def batches_trained(trainer: Any) -> int:
    """Batches that a fit has learned from, those before a resumption too; several may have been one update."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


def renew_rate(schedule: Any, own: Any, rate: float) -> None:
    """Sets the learning rate to what a schedule says now: a checkpoint brings the rate of its own run, perhaps 0.

    Args:
        schedule: that is used.
        own: the module's, if it made one: its highest rate may have been found meanwhile (LearningRateFinder).
        rate: that highest rate now.
    """
    if not isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):  # --optimizer brings its own, or none
        return
    before = schedule.optimizer.param_groups[0]["lr"]
    if schedule is own:
        schedule.base_lrs = [rate] * len(schedule.base_lrs)
    for group, highest, share in zip(
        schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = highest * share(schedule.last_epoch)
    now = schedule.optimizer.param_groups[0]["lr"]
    if schedule.last_epoch and not math.isclose(now, before, rel_tol=0.01):
        rank_zero_info(f"learning rate: {now:.3g}, where it was {before:.3g}: the run is to end elsewhere now")


def name_class(module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Notes a module's class beside its settings, as the command line does, for who saves without one."""
    kind = type(module)
    checkpoint.get("hyper_parameters", {}).setdefault("_class_path", f"{kind.__module__}.{kind.__qualname__}")


def forget_raw_weights(module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Leaves of averaged weights and those that learning goes on from only the first, unless it goes on.

    Else Lightning's WeightAveraging, of a trainer that has fitted before, takes the others to be tested.
    """
    trainer = module._trainer
    if trainer is None or trainer.state.fn != "fit":
        checkpoint.pop("current_model_state", None)


def to_python(value: Any) -> Any:
    """Python's own number for numpy's or torch's, in a dict too: of others no checkpoint loads without running code."""
    if isinstance(value, Mapping):
        return {key: to_python(each) for key, each in value.items()}
    return value.item() if hasattr(value, "item") else value


def refuse_unloadable(*parts: pl.LightningModule | pl.LightningDataModule | None) -> None:
    """Raises a ValueError if a setting is of a kind with which no checkpoint could be loaded, as none may run code."""
    for part in parts:
        for name, value in part.hparams.items() if part is not None else ():
            content = io.BytesIO()
            try:
                torch.save(value, content)
                content.seek(0)
                torch.load(content, weights_only=True)
            except Exception:  # pickle and torch raise a dozen kinds
                raise ValueError(
                    f"{type(part).__name__}'s {name} is a {type(value).__name__}, and no checkpoint that holds one "
                    "could be loaded, as that would run code: leave it out by save_hyperparameters(ignore="
                    f"[{name!r}]), or give text, numbers, tensors, lists or dicts of them"
                ) from None


def datamodule_of(module: pl.LightningModule) -> Any:
    """The data module of a module's fit.

    Raises:
        ValueError: it was given loaders instead, which know nothing of games, statistics and rules of play.
    """
    data = data_of(module.trainer)
    if data is None:
        name = type(module).__name__
        raise ValueError(f"{name} learns from a data module: give trainer.fit(module, datamodule=...), not loaders")
    return data
