"""The command line: links data to model, fits defaults to the machine, and refuses what would mislead."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, ReduceLROnPlateau
from pytorch_lightning.utilities.exceptions import SIGTERMException

from pd_lightning.agent import network_of
from pd_lightning.callbacks import Checkpoint, Film, Rollouts, StopTogether, UpdatesBar
from pd_lightning.checkpoints import (
    explicit_model_options,
    find_checkpoint,
    is_over,
    read_checkpoint,
    refuse_contradictions,
    refuse_other_weights,
)
from pd_lightning.commands import STOPPED
from pd_lightning.ending import print_ending
from pd_lightning.files import PRESETS
from pd_lightning.folder import (
    RunConfig,
    checkpoint_folders,
    claim_folder,
    forget_stop,
    job_folder,
    own_loggers,
    run_folder,
    stopped_job,
)
from pd_lightning.machine import fastest_precision, keep_freed_memory
from pd_lightning.messages import fail, our_own, quieten
from pd_lightning.networks import parameter_count
from pd_lightning.parser import SUBCOMMANDS, Parser, program
from pd_lightning.refusals import refuse_old_scores, refuse_search, refuse_strategy, refuse_unused
from pd_lightning.summary import games_of, size_of
from pd_lightning.trainers import callbacks_of, is_dry

WHAT = "Policy distillation: trains students and teachers (fit), and scores them (test)."
STOPPED_BY_SIGTERM = 128 + signal.SIGTERM
"""Exit status, as shells have it: whoever waits for a run must not take it for one that has ended."""
NOT_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
"""Errors of the system that are no fault of a program."""


class DistillationCLI(LightningCLI):
    """`fit`, `validate` and `test` of anything here; what is run unless told otherwise is `presets/default.yaml`."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, but for `predict`: nothing here does that."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name in SUBCOMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks as options of their own, and links from what the data knows to the model that needs it."""
        parser.add_lightning_class_args(Rollouts, "rollouts")
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.add_lightning_class_args(Film, "film")
        parser.link_arguments("data.actions", "model.init_args.games", apply_on="instantiate")
        parser.link_arguments("rollouts.protocol", "film.protocol")
        parser.link_arguments("rollouts.fire", "film.fire")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, then settles which checkpoint is meant and whether the rest of the command agrees with it."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        words = sys.argv[1:] if args is None else args if isinstance(args, list) else []
        self.checkpoint: dict[str, Any] | None = None
        self._checkpoint_updates, self._over = 0, False
        if root := config.trainer.default_root_dir:  # of its loggers one would expand it, and the others not
            config.trainer.default_root_dir = os.path.expanduser(root)
        self._stopped = stopped_job(config.trainer.default_root_dir) if self.config.subcommand == "fit" else None
        if self._stopped:  # whatever the job began with
            config.ckpt_path = str(self._stopped)
        if config.get("ckpt_path"):
            own = config.checkpoint.dirpath
            folders = [Path(own)] if own else list(checkpoint_folders(config.trainer))
            path = find_checkpoint(str(config.ckpt_path), folders)
            config.ckpt_path = str(path.absolute())  # whoever reads the configuration may be elsewhere
            rank_zero_info(f"checkpoint: {path}")
            self.checkpoint = read_checkpoint(path)
            self._checkpoint_updates = self.checkpoint.get("global_step", 0)
            files = [*(self.config.get("config") or []), *(config.get("config") or [])]
            given = explicit_model_options(words, [Path(str(file)) for file in files if file])  # none of text in place
            if self.config.subcommand != "fit":  # nothing is learned, and LearningRateFinder may have found a rate
                given -= {"learning_rate", "warmup"}
            refuse_contradictions(path, self.checkpoint["hyper_parameters"], config.model, given)
            if self.config.subcommand == "fit" and "optimizer_states" not in self.checkpoint:
                fail(f"{path}: holds weights alone, so learning cannot go on: score it by `test`, or name another")
            if config.model.init_args.get("weights"):
                config.model.init_args.weights = None  # those of the checkpoint count

        refuse_unused(config, words)

    @staticmethod
    def configure_optimizers(lightning_module: pl.LightningModule, optimizer: Any, lr_scheduler: Any = None) -> Any:
        """Lightning's, but schedules count updates, as all does here; what waits for a score is asked once an epoch."""
        if isinstance(lr_scheduler, ReduceLROnPlateau):
            refuse_old_scores(lightning_module.trainer, lr_scheduler.monitor)
        if lr_scheduler is None or isinstance(lr_scheduler, ReduceLROnPlateau):
            return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

    def before_instantiate_classes(self) -> None:
        """Chooses the precision that is fastest where it runs, unless one was given."""
        trainer = self.config[str(self.subcommand)].trainer
        if trainer.precision is None and not trainer.plugins:  # a plugin may bring one
            trainer.precision = fastest_precision(trainer.accelerator)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what a constructor refuses is one line, not a traceback."""
        try:
            super().instantiate_classes()
            refuse_strategy(self.trainer, self.config[str(self.subcommand)].trainer.strategy)
        except (ValueError, MisconfigurationException) as error:
            fail(str(our_own(error) or error))
        if self.checkpoint is not None:
            refuse_other_weights(Path(self.config[str(self.subcommand)].ckpt_path), self.checkpoint, self.model)
            self._over = is_over(self.checkpoint, self.trainer)
            self.checkpoint = None  # its weights are read again, by Lightning

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Logs to TensorBoard and to CSV unless loggers were given; keeps no weights if that is not wanted."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.get("enable_checkpointing") is False:
            if key := self._get(self.config_init, "checkpoint").best.key:
                fail(
                    f"--checkpoint.monitor {key} is of weights that --trainer.enable_checkpointing false does not keep"
                )
            self._parser(self.subcommand).callback_keys.remove("checkpoint")
        kwargs["logger"] = own_loggers(trainer.get("logger"), trainer.get("default_root_dir"))
        self._job_folder = job_folder(trainer.get("default_root_dir")) if kwargs["logger"] else None
        if self._job_folder:
            kwargs["default_root_dir"] = str(self._job_folder)
        if trainer.get("barebones"):
            fail("--trainer.barebones leaves out logs, scores and checkpoints, which a run is for: leave it out")
        given = trainer.get("callbacks") or []
        # StopTogether last: what others do after a batch, as to average weights, is done when it saves.
        kwargs["callbacks"] = [*(given if isinstance(given, list) else [given]), StopTogether()]
        bar = UpdatesBar if trainer.get("enable_progress_bar") is not False else None
        rates = LearningRateMonitor if kwargs["logger"] else None
        for kind, usual in ((ProgressBar, bar), (LearningRateMonitor, rates)):
            if usual and not any(isinstance(each, kind) for each in kwargs["callbacks"]):
                kwargs["callbacks"].append(usual())
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Starts the clock of the final table; a run that is resumed after its end has nothing to do."""
        self._began = time.time()
        if self._over:
            given = ((name, self.config.fit.trainer[name]) for name in ("max_steps", "max_epochs", "max_time"))
            limits = ", ".join(f"--trainer.{name} {value}" for name, value in given if value not in (None, -1))
            rank_zero_info(
                f"{self.config.fit.ckpt_path} has had {self._checkpoint_updates:,} updates, so nothing is left to do "
                f"by {limits}: raise that, score the checkpoint by `test`, or begin anew by --ckpt_path null"
            )
            raise SystemExit(0)
        if self.config.fit.ckpt_path:
            refuse_search(self.trainer, by_itself=self._stopped is not None)
        keeps = self.trainer.checkpoint_callback is not None and not self.config.fit.checkpoint.dirpath
        claim_folder(self.trainer.loggers, begins=keeps and not self.config.fit.ckpt_path)
        if folder := run_folder(self.trainer):
            rank_zero_info(f"logs: {folder}")
        if not self.config.fit.trainer.enable_model_summary:
            network = network_of(self.model)
            games = ", ".join(games_of(network, self.datamodule))
            rank_zero_info(f"network: {size_of(network)} of {games}, {parameter_count(network):,} parameters")

    def after_fit(self) -> None:
        """Keeps the last weights, prints the table and where everything is."""
        seconds = time.time() - self._began
        forget_stop(self.trainer, self._job_folder)
        done = getattr(self.model, "validated_at", -1) == self.trainer.global_step
        validated = bool(getattr(self.datamodule, "held_out", None)) and not done
        if validated:  # the last validation is some updates old
            self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        dry = is_dry(self.trainer)
        for checkpoint in [] if dry else self.trainer.checkpoint_callbacks:
            if isinstance(checkpoint, Checkpoint) and checkpoint.dirpath:
                if validated and self.trainer.limit_val_batches:
                    checkpoint.judge(self.trainer, "val/", ended=True)
                if (key := checkpoint.best.key) and checkpoint.best.score is None:
                    rank_zero_warn(f"checkpoint.monitor is {key!r}, which was not measured: no best.ckpt")
        print_ending(self.trainer, self._began, seconds)

    def before_validate(self) -> None:
        """Refuses to score a network that was never trained."""
        if not self.config[str(self.subcommand)].get("ckpt_path"):
            fail(f"{self.subcommand} scores a checkpoint: give --ckpt_path PATH, or `last` for the newest run's")
        data = type(self.datamodule)
        nothing = data.val_dataloader is pl.LightningDataModule.val_dataloader
        if self.subcommand == "validate" and (nothing or getattr(self.datamodule, "held_out", None) == {}):
            fail(f"validate asks for held-out states, and {data.__name__} has none: score the checkpoint by `test`")
        # They are needed to learn on.
        warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
        claim_folder(self.trainer.loggers, begins=False)

    def before_test(self) -> None:
        """As before validation; and the scores are those of a network that was trained so long."""
        if self.trainer.limit_test_batches == 0:
            fail("--trainer.limit_test_batches 0 leaves out play too: give 1 to measure hardly any held-out states")
        self.before_validate()
        self._began = time.time()
        for callback in callbacks_of(self.trainer):
            if isinstance(callback, Rollouts):
                callback.updates_before = self._checkpoint_updates

    def after_test(self) -> None:
        """Prints the table."""
        print_ending(self.trainer, self._began, time.time() - self._began)


def main(args: list[str] | None = None) -> None:
    """Runs the command line; errors that a user can mend are one line."""
    quieten()
    keep_freed_memory()
    default = {"default_config_files": [str(PRESETS / "default.yaml")]}
    try:
        DistillationCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": program(sys.argv[0]), "description": WHAT, **dict.fromkeys(SUBCOMMANDS, default)},
            parser_class=Parser,
            args=args,
        )
    except SIGTERMException:
        raise SystemExit(STOPPED_BY_SIGTERM) from None
    except KeyboardInterrupt:  # before the Trainer runs, which has its own way
        print("stopped", file=sys.stderr)
        raise SystemExit(STOPPED) from None
    except MisconfigurationException as error:
        fail(str(error))
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on"):
            raise
        fail(str(error))
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror}; make room, or choose another folder")
    except ValueError as error:
        if re.match(" *`val_check_interval` .* less than", str(error)):  # Lightning's, which ours may have provoked
            fail(f"{str(error).strip()} Or validate once an epoch: --trainer.val_check_interval null")
        if our_own(error) is None:
            raise
        fail(str(our_own(error)))
