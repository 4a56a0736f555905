"""What the command line says of its options, and of what is wrong with them."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import itertools
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.cli import LightningArgumentParser

from pd_lightning.checkpoints import CheckpointError, find_checkpoint
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.files import PRESETS
from pd_lightning.folder import NAME
from pd_lightning.live import LiveTeacher
from pd_lightning.messages import fail, one_line
from pd_lightning.pqn import PQN, ParallelPlay

PRESET_OF = {PolicyDistillation: "default", TeacherDatasets: "default", LiveTeacher: "on_policy",
             ParallelPlay: "teacher", PQN: "teacher"}  # fmt: skip
"""A preset in which a class is used."""
SUBCOMMANDS = {
    "fit": "Trains a student or a teacher, and scores it by play.",
    "validate": "Compares a checkpoint with its teacher in held-out states.",
    "test": "Does so, and scores it by play.",
}
OTHER_COMMANDS = """
Other commands; each explains itself by --help:
  python -m pd_lightning.recording   record a teacher's play, whichever library trained it
  python -m pd_lightning.score       score any teacher or student
  python -m pd_lightning.film        film players side by side
  python -m pd_lightning.export      a student as a file for other programs
  python -m pd_lightning.report      tables, curves and intervals of runs
  python -m pd_lightning.reproduce   an experiment of the paper, whole
  python -m pd_lightning.blocks      look at recorded shards, or verify them
  python -m pd_lightning.streaming   print the order in which states are learned
"""
OURS = {
    "ckpt_path": "What to go on from, or to score: a .ckpt, a run's folder (its last.ckpt), or `last` or `best`, the "
    "newest last.ckpt or best.ckpt of the runs here.",
    "checkpoint.dirpath": "Where checkpoints are kept; by default `checkpoints` in the run's folder.",
}
"""What is said of options of which Lightning's own words are not true here."""
CLASS = re.compile(r"key \"(?P<group>model|data)\".*class_path '(?P<module>[\w.]+)\.(?P<name>\w+)'")
"""Whose options an error is about, where it is a class's."""


def program(called: str) -> str:
    """How the command line was called, as one types it.

    >>> program("/home/me/train.py"), program("/site-packages/pd_lightning/__main__.py")
    ('train.py', 'python -m pd_lightning')
    """
    name = Path(called).name
    return "python -m pd_lightning" if name == "__main__.py" else name


def preset(name: str) -> str:
    """A configuration's file: itself, or the preset that is called so where there is no such file.

    >>> preset("multi_task").endswith("presets/multi_task.yaml"), preset("mine/multi_task")
    (True, 'mine/multi_task')
    """
    shipped = PRESETS / f"{Path(name).stem}.yaml"
    named = Path(name).parent in (Path("."), Path("pd_lightning/presets"))
    return str(shipped) if named and not Path(name).is_file() and shipped.exists() else name


def files_first(words: list[str]) -> list[str]:
    """A command's words, its `--config` files before all other options, in their order.

    >>> files_first(["fit", "--film.seed=7", "--config", "a.yaml", "--data.root", "mine", "--config=b.yaml"])
    ['fit', '--config', 'a.yaml', '--config=b.yaml', '--film.seed=7', '--data.root', 'mine']
    """
    command = next((place for place, word in enumerate(words) if word in SUBCOMMANDS), len(words))
    files, others, rest = [], [], iter(words[command + 1 :])
    for word in rest:
        option, equals, name = word.partition("=")
        if word in ("--config", "-c"):
            files += [word, *map(preset, itertools.islice(rest, 1))]
        elif option == "--config" and equals:
            files.append(f"--config={preset(name)}")
        else:
            others.append(word)
    return [*words[: command + 1], *files, *others]


def with_settings_of_run(words: list[str]) -> list[str]:
    """The words of a test or validation, with the configuration of the run that it scores, unless one is named.

    Only of runs in the folder of logs: a configuration names classes, and a checkpoint from elsewhere brings no code.
    """
    command = next((place for place, word in enumerate(words) if word in SUBCOMMANDS), len(words) - 1)
    asked = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--ckpt_path", "--trainer.default_root_dir"):
        asked.add_argument(option)
    asked.add_argument("--config", "-c", action="append")
    with contextlib.suppress(CheckpointError, argparse.ArgumentError):  # is said when all options are known
        given, _ = asked.parse_known_args(words[command + 1 :])
        if words[command : command + 1] in ([], ["fit"]) or given.config or not given.ckpt_path:
            return words
        elsewhere = any(word.startswith(("--checkpoint.dirpath", "--trainer.logger")) for word in words)
        if elsewhere and given.ckpt_path in ("last", "best"):  # it is the newest there, and not in the folder of logs
            return words
        logs = Path(vars(given)["trainer.default_root_dir"] or ".").expanduser() / NAME
        path = find_checkpoint(given.ckpt_path, [*logs.glob("*/checkpoints")])
        settings = path.parent.parent / "config.yaml"
        if settings.is_file() and settings.resolve().is_relative_to(logs.resolve()):
            rank_zero_info(f"settings: {settings}")
            return [*words[: command + 1], "--config", str(settings), *words[command + 1 :]]
        if settings.is_file():
            rank_zero_info(
                f"settings: the defaults, as that run lies outside of {logs}, and its configuration may name any code; "
                f"if it is your own, give --config {settings}"
            )
    return words


class Parser(LightningArgumentParser):
    """Says in one line what is wrong, and explains the options of the default model and data too."""

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """Lightning's, but what is typed counts over files wherever it stands: else a file undoes what is before it."""
        words = sys.argv[1:] if args is None else args
        if isinstance(words, list):
            words = files_first(with_settings_of_run(words))
        return super().parse_args(words, *more, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One line, without the enumeration of types that were tried."""
        if not self.exit_on_error:
            super().error(message, ex)
        text = one_line(message)
        if "'torch.optim.Optimizer'" in text:
            text += "; the usual optimizer's rate is --model.learning_rate, another's goes with --optimizer CLASS"
        if 'key "config"' in text and "does not exist" in text:
            text += f"; presets are {', '.join(sorted(file.stem for file in PRESETS.glob('*.yaml')))}"
        text += self._nearest(text)
        named = CLASS.search(text)
        topic = f"--{named['group']}.help {named['name']}" if named else "--help"
        fail(f"{text}; options: {self.prog.replace(' [options]', '')} {topic}")

    def _nearest(self, text: str) -> str:
        """What may have been meant by an option that there is not."""
        wrong = re.search(
            r"unrecognized arguments: --([\w.]+)|[Oo]ption '([\w.]+)' is not|accept option '([\w.]+)'", text
        )
        if wrong is None:
            return ""
        word = next(filter(None, wrong.groups()))
        known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        named = CLASS.search(text)
        for group, kind in (("model", PolicyDistillation), ("data", TeacherDatasets)):
            if named and named["group"] == group:
                kind = getattr(sys.modules.get(named["module"]), named["name"], kind)
            names = list(inspect.signature(kind).parameters)
            known += names if f'key "{group}"' in text else [f"{group}.{name}" for name in names]
        for kind, preset in PRESET_OF.items() if named else ():
            if word in inspect.signature(kind).parameters:
                return f"; {kind.__name__} has it, as in --config pd_lightning/presets/{preset}.yaml"
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
        return f"; did you mean {near[0]}?" if near else ""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Lightning's, and what `--model.help PolicyDistillation` and `--data.help TeacherDatasets` say."""
        if not {"model", "rollouts"} <= (self.groups or {}).keys():
            for command in (each for action in self._actions for each in getattr(action, "_choices_actions", ())):
                command.help = SUBCOMMANDS[command.dest]
            return super().format_help(formatter) + OTHER_COMMANDS
        for action in self._actions:
            action.help = OURS.get(action.dest, action.help)
        more = LightningArgumentParser(usage=argparse.SUPPRESS, description="", add_help=False)
        more.add_class_arguments(PolicyDistillation, "model", skip={"games"})
        more.add_class_arguments(TeacherDatasets, "data")
        others = "Others: --model.help PQN, --data.help ParallelPlay, --data.help LiveTeacher\n"
        return f"{super().format_help(formatter)}\n{more.format_help()}\n{others}"
