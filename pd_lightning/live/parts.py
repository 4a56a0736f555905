"""What a collector is made of: teachers from files, teachers that learn, and who writes what is played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl

from pd_lightning.atari import action_meanings, named_protocol
from pd_lightning.centring import mean_image
from pd_lightning.live.collector import Process
from pd_lightning.live.learner import Learner
from pd_lightning.live.recorder import Recorder
from pd_lightning.live.settings import LiveSettings
from pd_lightning.pqn.games import random_play
from pd_lightning.recording import header_of
from pd_lightning.teacher import Teacher, TeacherError, load_teacher


def load_teachers(games: Sequence[str], root: str, files: Mapping[str, str]) -> dict[str, Teacher]:
    """The frozen teacher of each game.

    Raises:
        TeacherError: one is missing, broken, or of another game.
        ValueError: a file is of a game that is not learned.
    """
    if "://" in root and set(games) - files.keys():
        raise ValueError(
            f"root is {root}: live play reads teachers from folders; choose --data.root, or --data.teachers"
        )
    for game in files:
        if game not in games:
            raise ValueError(f"teachers has {game}, which is not among the games, {', '.join(games)}")
    paths = {game: files.get(game) or Path(root) / game / "teacher.safetensors" for game in games}
    for game, path in paths.items():
        if game not in files and not Path(path).exists():
            raise TeacherError(
                f"{path}: there is no such file (a recording has none): name the teacher, as in --data.teachers "
                f"'{{{game}: datasets/{game}/teacher.safetensors}}', or train one with `python train.py fit --config "
                f"pd_lightning/presets/teacher.yaml --data.game {game}`"
            )
    return {game: load_teacher(path, game) for game, path in paths.items()}


def new_learners(
    settings: LiveSettings, process: Process, fire: Mapping[str, bool], trainer: pl.Trainer
) -> dict[str, Learner]:
    """A teacher of each game that begins to learn, its input centred on random play: it knows nothing.

    Args:
        settings: of live play.
        process: this process.
        fire: whether FIRE is pressed, by game.
        trainer: of the run, over which their learning rate falls.
    """
    rounds = settings.rounds_due(total_updates(trainer, settings.updates))
    learners = {}
    for number, game in enumerate(settings.games):
        actions, seed = len(action_meanings(game)), settings.seed + number
        learners[game] = Learner(game, actions, settings.lessons, rounds, seed, process.device)
        seen = random_play(game, settings.parallel, fire[game], settings.seed)
        learners[game].network.centre(game, *mean_image(seen))
    return learners


def new_recorders(
    folder: str | None,
    settings: LiveSettings,
    process: Process,
    fire: Mapping[str, bool],
    teachers: Mapping[str, Teacher],
) -> dict[str, Recorder]:
    """Who writes what is played of each game into a folder of datasets; nobody, if there is none."""
    if folder is None:
        return {}
    rules, found = named_protocol(settings.protocol), {}
    for game, teacher in teachers.items():
        header = replace(header_of(teacher, rules, settings.parallel, settings.seed, fire[game]), player="both")
        found[game] = Recorder(Path(folder) / game, header, process.rank, settings.devices)
    return found


def total_updates(trainer: pl.Trainer, epoch: int) -> int:
    """Batches of a whole run: what a teacher's learning rate falls over.

    Args:
        trainer: of the run.
        epoch: batches in one.

    Raises:
        ValueError: the run has no end.
    """
    limit, accumulated = trainer.limit_train_batches, trainer.accumulate_grad_batches
    epoch = max(1, min(epoch, limit) if isinstance(limit, int) else int(epoch * (1.0 if limit is None else limit)))
    epochs, rest = divmod(trainer.max_steps, -(-epoch // accumulated))  # an epoch ends with an update
    batches = epochs * epoch + min(rest * accumulated, epoch) if trainer.max_steps > 0 else -1
    limits = [limit for limit in (batches, (trainer.max_epochs or -1) * epoch) if limit > 0]
    if not limits:
        raise ValueError("a teacher that learns needs an end: give --trainer.max_steps")
    return min(limits)
