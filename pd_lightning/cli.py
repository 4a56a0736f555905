"""The command line: links data to model, fits defaults to the machine, refuses what would mislead, and reports."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
import yaml
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console

from pd_lightning.blocks import ShardError
from pd_lightning.callbacks import Film, Rollouts
from pd_lightning.datamodule import ResumeError
from pd_lightning.pqn import PQN, ParallelPlay
from pd_lightning.rollout import Returns
from pd_lightning.summary import results_table
from pd_lightning.teacher import TeacherError, save_teacher

PRESETS = Path(__file__).parent / "presets"
SUBCOMMANDS = ("fit", "validate", "test", "predict")


def fail(message: str) -> NoReturn:
    """One line on stderr and exit status 2."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


class DistillationCLI(LightningCLI):
    """`fit`, `validate` and `test` of anything here; what is run unless told otherwise is `presets/default.yaml`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks as options of their own, and links from what the data knows to the model that needs it."""
        parser.add_lightning_class_args(Rollouts, "rollouts")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Film, "film")
        parser.set_defaults({"checkpoint.save_last": True})
        parser.link_arguments("data.actions", "model.init_args.games", apply_on="instantiate")
        parser.link_arguments("rollouts.protocol", "film.protocol")
        parser.link_arguments("rollouts.fire", "film.fire")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, then settles which checkpoint is meant and whether the rest of the command agrees with it."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        self.checkpoint: dict[str, Any] | None = None
        self._checkpoint_updates = 0
        if config.get("ckpt_path"):
            path = find_checkpoint(config.ckpt_path, Path(config.trainer.default_root_dir or "."))
            config.ckpt_path = str(path)
            self.checkpoint = read_checkpoint(path)
            self._checkpoint_updates = self.checkpoint.get("global_step", 0)
            given = explicit_model_options(sys.argv[1:] if args is None else args, config.get("config"))
            refuse_contradictions(path, self.checkpoint.get("hyper_parameters", {}), given)

    def before_instantiate_classes(self) -> None:
        """Chooses the precision that is fastest where it runs, unless one was given."""
        trainer = self.config[str(self.subcommand)].trainer
        if trainer.precision is None:
            trainer.precision = fastest_precision(trainer.accelerator)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what a constructor refuses is one line, not a traceback."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            fail(str(error))
        if self.checkpoint is not None:
            refuse_other_weights(self.config[str(self.subcommand)].ckpt_path, self.checkpoint, self.model)
            self.checkpoint = None  # its weights are read again, by Lightning

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Logs to TensorBoard and to CSV, in one folder, unless loggers were given."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.get("logger") in (None, True):
            board = TensorBoardLogger(trainer.get("default_root_dir") or ".", "lightning_logs")
            kwargs["logger"] = [board, CSVLogger(board.root_dir, "", board.version)]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Starts the clock of the final table."""
        self._started = time.monotonic()

    def after_fit(self) -> None:
        """Keeps the last weights, prints the table and where everything is."""
        checkpoint = self.trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.save_last and checkpoint.dirpath:
            # ModelCheckpoint saves at its own intervals, which need not end where the run ends.
            self.trainer.save_checkpoint(Path(checkpoint.dirpath) / "last.ckpt", weights_only=False)
        seconds = time.monotonic() - self._started
        if getattr(self.datamodule, "held_out", None):  # the last validation may be some updates old
            self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        self._report(seconds)

    def before_test(self) -> None:
        """Refuses to score a network that was never trained."""
        if not self.config[str(self.subcommand)].get("ckpt_path"):
            fail("test scores a checkpoint: give --ckpt_path PATH, or --ckpt_path last for the newest run's")
        self._started = time.monotonic()

    def after_test(self) -> None:
        """Prints the table."""
        self._report(time.monotonic() - self._started)

    def _report(self, seconds: float) -> None:
        folder = self.trainer.log_dir  # asks all ranks
        if not self.trainer.is_global_zero:
            return
        callbacks = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        scores = next((c.scores for c in callbacks if isinstance(c, Rollouts)), {})
        if isinstance(self.model, PQN) and isinstance(self.datamodule, ParallelPlay) and folder:
            updates = self.trainer.global_step or self._checkpoint_updates
            about = {
                "steps": self.datamodule.steps_after(updates, self.trainer.world_size),
                "command": " ".join(["python", *sys.argv]),
                **score_metadata(scores.get(self.datamodule.game)),
            }
            save_teacher(self.model.network, Path(folder) / "teacher.safetensors", about)
        console = Console()
        if not console.is_terminal:
            console.width = 100  # the table in one piece, in a log file
        console.print(results_table(scores, self.model, self.datamodule, self.trainer.callback_metrics, seconds))
        for kind, path in self._artefacts(folder):
            console.print(f"{kind:<11}{path}", soft_wrap=True, highlight=False)

    def _artefacts(self, folder: str | None) -> list[tuple[str, Path]]:
        """What the run has left, and where."""
        found: list[tuple[str, Path]] = []
        for callback in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, ModelCheckpoint) and callback.dirpath:
                found += [("checkpoint", path) for path in sorted(Path(callback.dirpath).glob("*.ckpt"))]
            if isinstance(callback, Film):
                found += [("film", path) for path in callback.paths]
        teacher = Path(folder or ".", "teacher.safetensors")
        found += [("teacher", teacher)] if teacher.is_file() else []
        return [*found, ("logs", Path(folder))] if folder else found


def score_metadata(returns: Returns | None) -> dict[str, object]:
    """What a teacher file says of its score."""
    if returns is None:
        return {}
    low, high = returns.interval
    return {
        "return": f"{returns.mean:.2f}",
        "return_interval_95": f"{low:.2f} to {high:.2f}",
        "episodes": len(returns.values),
        "protocol": returns.protocol,
    }


def fastest_precision(accelerator: str | object) -> str:
    """bf16-mixed where the hardware multiplies bfloat16, else 32-true."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    capable = any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bf16-mixed" if accelerator in ("auto", "cpu") and capable else "32-true"


def find_checkpoint(name: str, root: Path) -> Path:
    """The file that `--ckpt_path` means; `last` is the newest last.ckpt of all runs below `root`.

    Lightning itself looks only into the folder of the run that is just starting, finds nothing, warns, and goes on
    with untrained weights.
    """
    if name != "last":
        path = Path(name)
        if not path.is_file():
            fail(f"--ckpt_path {name}: there is no such file; give a .ckpt, or 'last' for the newest run's")
        return path
    found = sorted(root.glob("lightning_logs/*/checkpoints/last*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        fail(f"--ckpt_path last: no run in {root / 'lightning_logs'} has left a last.ckpt; name a file, or start anew")
    rank_zero_info(f"resuming from {found[-1]}")
    return found[-1]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, loaded without running code that may be in it."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for files that are not its own
        reason = str(error).splitlines()[0][:120]
        fail(f"{path}: not a whole checkpoint that loads without running code ({reason}); name another")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        fail(f"{path}: has no state_dict; name a checkpoint that `python train.py fit` has written")
    return checkpoint


def explicit_model_options(args: ArgsType, files: list[Any] | None) -> dict[str, Any]:
    """What the user said about the model, as flags or in --config files: option to value as text or YAML gives it."""
    given: dict[str, Any] = {}
    for file in files or []:
        path = Path(getattr(file, "relative", None) or str(file))
        if path.is_file() and path.resolve().parent != PRESETS:
            model = (yaml.safe_load(path.read_text()) or {}).get("model") or {}
            given |= {"_class_path": model["class_path"]} if "class_path" in model else {}
            given |= model.get("init_args") or {}
    words = iter(args if isinstance(args, list) else [])
    for word in words:
        if word.startswith(("--model.", "--model=")) or word == "--model":
            key, equals, value = word.removeprefix("--model").lstrip(".").partition("=")
            text = value if equals else next(words, "")
            given[key.removeprefix("init_args.") or "_class_path"] = yaml.safe_load(text)
    return given


def refuse_contradictions(path: Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
    """The checkpoint's hyper-parameters win over the command line, so a command that says otherwise is refused."""
    for key, value in given.items():
        name = str(saved.get(key)).rsplit(".", 1)[-1] if key == "_class_path" else saved.get(key)
        said = str(value).rsplit(".", 1)[-1] if key == "_class_path" else value
        if key in saved and said != name and str(said) != str(name):
            fail(
                f"--model{'' if key == '_class_path' else '.' + key} is {said}, but {path} was trained with {name}; "
                "leave the option out, or start anew without --ckpt_path"
            )


def refuse_other_weights(path: str, checkpoint: dict[str, Any], model: pl.LightningModule) -> None:
    """Compares names and shapes of a checkpoint's weights with the model's, before anything is computed."""
    saved = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    built = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(saved.keys() | built.keys()):
        if saved.get(name) != built.get(name):
            fail(
                f"{path}: {name} is {saved.get(name, 'missing')}, a {type(model).__name__} of these games and this "
                f"size has {built.get(name, 'no such weights')}; name a checkpoint of this architecture"
            )


def quieten() -> None:
    """Silences what third parties say that a user can do nothing about."""
    for message in (
        ".*does not have many workers.*",  # streams read in threads of their own
        ".*isinstance\\(treespec.*",
        ".*is not supported by the model summary.*",
        ".*Experiment logs directory.*exists and is not empty.*",  # TensorBoard's, of the same run
        ".*was not set, defaulting to.*",
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )


def main(args: list[str] | None = None) -> None:
    """Runs the command line; errors that a user can mend are one line."""
    quieten()
    default = {"default_config_files": [str(PRESETS / "default.yaml")]}
    try:
        DistillationCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            parser_kwargs=dict.fromkeys(SUBCOMMANDS, default),
            args=args,
        )
    except (ShardError, TeacherError, ResumeError) as error:
        fail(str(error))
