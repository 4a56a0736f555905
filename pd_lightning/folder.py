"""A run that logs has a folder of its own, whatever it logs to: what it leaves lies there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from pd_lightning.messages import fail
from pd_lightning.trainers import is_dry

NAME = "lightning_logs"
FOLDERS = (TensorBoardLogger, CSVLogger)
"""Loggers that give each run a folder of its own; others have one for all, or none."""


class RunConfig(SaveConfigCallback):
    """Leaves the configuration in the run's folder, if it has one: else it would lie, or be written over, anywhere."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning's."""
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tells the loggers what was set of the data: of the model Lightning does."""
        given = self.config.data.get("init_args", {})
        for logger in trainer.loggers:
            logger.log_hyperparams({f"data/{name}": value for name, value in given.items()})


def run_folder(trainer: pl.Trainer) -> Path | None:
    """Where a run leaves what it makes; nowhere, if it logs nothing or is a dry one. Asks all ranks.

    Its loggers may have one folder for all runs (W&B), or none (MLflow's server): then it is where Lightning has put
    this run's checkpoints.
    """
    if not trainer.loggers or is_dry(trainer):
        return None
    kept = Path(str(getattr(trainer.checkpoint_callback, "dirpath", None) or ""))
    if not isinstance(trainer.loggers[0], FOLDERS) and kept.name == "checkpoints":
        return kept.parent
    folder = trainer.log_dir
    return Path(folder) if folder else None


def own_loggers(given: Any, root: str | Path | None) -> list[Logger]:
    """The loggers of a run, first one with a folder for it.

    Args:
        given: what was asked for: nothing (TensorBoard and CSV, in one folder), False, a logger or several.
        root: where `lightning_logs` is to be, if that was not said to the loggers.
    """
    root = root or "."
    if given in (None, True):
        board = TensorBoardLogger(root, NAME)
        return [board, CSVLogger(board.root_dir, "")]
    loggers = list(given) if isinstance(given, Sequence) else [given] if given else []
    if loggers and not any(isinstance(logger, FOLDERS) for logger in loggers):
        loggers.append(CSVLogger(root, NAME))
    return sorted(loggers, key=lambda logger: not isinstance(logger, FOLDERS))


@rank_zero_only
def claim_folder(loggers: Sequence[Logger], begins: bool) -> None:
    """Makes the run's folder at once, so that runs started together do not write into one.

    Args:
        loggers: of the run.
        begins: it does not go on from a checkpoint; an empty folder of checkpoints then says that it has left none.
    """
    if not loggers or not isinstance(first := loggers[0], FOLDERS):
        return
    free = first._version is None
    try:
        Path(first.root_dir).mkdir(parents=True, exist_ok=True)  # what is there and no folder is no version of a run
        while True:
            try:
                Path(first.log_dir).mkdir(parents=True, exist_ok=not free)
                break
            except FileExistsError:
                first._version = int(first.version) + 1
    except OSError as error:
        fail(f"{first.log_dir} cannot be made ({error.strerror}): choose another --trainer.default_root_dir")
    for other in loggers[1:]:
        if isinstance(other, CSVLogger) and Path(other.root_dir) == Path(first.root_dir):
            other._version = first.version
    if begins:
        (Path(first.log_dir) / "checkpoints").mkdir(exist_ok=True)


def job_folder(root: str | Path | None) -> Path | None:
    """Where Lightning keeps the checkpoint of a job that SLURM stops and queues again; nowhere, if SLURM runs none.

    It goes on from whatever such checkpoint lies there: each step of each job has a folder of its own.
    """
    if not SLURMEnvironment.detect():
        return None
    step = f"{os.environ.get('SLURM_JOB_ID', '')}.{os.environ.get('SLURM_STEP_ID', '0')}"
    return Path(root or ".").absolute() / NAME / ".slurm" / step


def stopped_job(root: str | Path | None) -> Path | None:
    """The checkpoint that SLURM's job goes on from when it is queued again, if it was stopped and is queued again.

    What a kill left of one is deleted: Lightning would take it for one, by its name.
    """
    folder = job_folder(root)
    if folder is None:
        return None
    for part in folder.glob(".*hpc_ckpt_*"):
        part.unlink(missing_ok=True)
    return max(folder.glob("hpc_ckpt_*.ckpt"), key=lambda path: path.stat().st_mtime_ns, default=None)


def forget_stop(trainer: pl.Trainer, folder: Path | None) -> None:
    """A run that is over does not go on from where SLURM stopped it: else it would even be validated as it was then.

    Args:
        trainer: whose run is over.
        folder: `job_folder`'s, if its job had one.
    """
    if folder is not None:
        if trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
        trainer.strategy.barrier()


def checkpoint_folders(trainer: Any) -> Iterator[Path]:
    """Where runs with the same loggers have left their checkpoints.

    Args:
        trainer: its configuration, as parsed.
    """
    root, given = Path(trainer.default_root_dir or "."), trainer.logger
    if given is False:
        yield from root.glob("checkpoints")
        return
    owned = 0
    for spec in given if isinstance(given, list) else [given]:
        options = getattr(spec, "init_args", None)
        if str(getattr(spec, "class_path", "")).endswith(tuple(kind.__name__ for kind in FOLDERS)) and options:
            owned += 1
            yield from Path(options.save_dir or root, options.get("name") or "").glob("*/checkpoints")
    if not owned:
        yield from (root / NAME).glob("*/checkpoints")
