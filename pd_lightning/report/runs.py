"""Runs as their folders tell them: what was set, and every episode that was played."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

NEEDED = ("config.yaml", "returns.csv")
NO_DIFFERENCE = {"games", "seed", "cache", "threads", "memory", "updates", "beta", "beta_end", "beta_steps",
                 "record_to"}  # fmt: skip
"""Options of the data that are shown otherwise, differ between seeds, or do not change what is learned."""
LEARNING = ("max_steps", "max_epochs", "max_time", "accumulate_grad_batches", "gradient_clip_val",
            "gradient_clip_algorithm", "limit_train_batches", "overfit_batches", "precision", "callbacks")  # fmt: skip
"""Options of the Trainer that change what is learned."""


CLASSES = ("PolicyDistillation", "TeacherDatasets", "LiveTeacher", "PQN", "ParallelPlay")
"""Whose options say all."""


class ReportError(ValueError):
    """A folder is not a run that can be reported; the message names it and what is wrong."""


@dataclass(frozen=True)
class Student:
    """What makes runs comparable: those that differ in nothing of this differ in their seeds alone.

    Attributes:
        size: of the network.
        loss: as it is shown: its temperature is part of it.
        games: that were learned together.
        acts: who acted where the teacher was live, as it is shown; nothing of recorded play.
        settings: everything else that was set and changes what is learned, each as it is shown.
        updates: at the last rollout.
        protocol: of the rollouts.
        fire: whether FIRE was pressed, if the run was told.
        root: folder of the recordings that it learned from; nothing of live play.
    """

    size: str
    loss: str
    games: tuple[str, ...]
    acts: str
    settings: tuple[str, ...]
    updates: int
    protocol: str
    fire: bool | None
    root: str = ""

    @property
    def said(self) -> tuple[str, ...]:
        """Settings and rules of play, each as it is shown, but for those that updates and protocol say already."""
        again = (f"max_steps {self.updates}", f"played_by_protocol {self.protocol}")
        return (*(each for each in self.settings if each not in again), *self.rules)

    @property
    def rules(self) -> tuple[str, ...]:
        """Of the rollouts, each as it is shown."""
        pressed = () if self.fire is None else ("FIRE pressed",) if self.fire else ("FIRE not pressed",)
        return (f"protocol {self.protocol}", *pressed)


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: the run's.
        seed: of the weights.
        data_seed: of the data: another split, or other play.
        student: what was trained.
        curve: returns of the episodes by game and update, float64 [n].
        teacher: the same of the teacher, if it was live.
        learning: whether that learned meanwhile.
        earlier: folders of the attempts that it goes on from.
    """

    folder: Path
    seed: int
    data_seed: int
    student: Student
    curve: dict[str, dict[int, np.ndarray]]
    teacher: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    learning: bool = False
    earlier: tuple[Path, ...] = ()

    @property
    def folders(self) -> str:
        """All that it is read from, joined by `;`: relative to the current folder where they lie in it."""
        here = Path.cwd()
        every = (*self.earlier, self.folder)
        return ";".join(str(each.relative_to(here) if each.is_relative_to(here) else each) for each in every)

    @property
    def returns(self) -> dict[str, np.ndarray]:
        """Of the last rollout, by game."""
        return {game: points[max(points)] for game, points in self.curve.items()}


def read_run(folder: Path) -> Run:
    """Reads `config.yaml` and `returns.csv`.

    Raises:
        ReportError: one is missing or does not hold what it should.
    """
    for name in NEEDED:
        if not (folder / name).is_file():
            raise ReportError(f"{folder}: has no {name}; name folders of runs, such as lightning_logs/version_0")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        seed = int(config["seed_everything"])
        rollouts = config["rollouts"]
        protocol, fire = str(rollouts["protocol"]), rollouts.get("fire")
        curve = read_curve(folder / "returns.csv")
        live = folder / "teacher_returns.csv"
        teacher = read_curve(live) if live.is_file() else {}
        updates = {max(points) for points in curve.values()}
        if len(updates) > 1:
            raise ValueError(f"games whose last rollouts differ, {sorted(updates)}")
        data = config.get("data", {}).get("init_args", {})
        if "root" in data:
            data["root"] = normal(str(data["root"]))
        student = Student(
            **described(config),
            games=tuple(sorted(curve)),
            updates=max(updates, default=0),
            protocol=protocol,
            fire=fire,
            root="" if "beta" in data else data.get("root", ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ReportError(f"{folder}: config.yaml or returns.csv lacks or garbles {reason}; leave it out") from None
    if not curve:
        raise ReportError(f"{folder}: returns.csv has no episodes; the run was stopped before its first rollout")
    return Run(folder, seed, int(data.get("seed") or 0), student, curve, teacher, bool(data.get("learn")))


def normal(root: str) -> str:
    """A folder, or a URL, however it was written."""
    return root.rstrip("/") if "://" in root else os.path.normpath(root)


def joined(attempts: Sequence[Run]) -> Run:
    """A run that was resumed, from the folders of all attempts, the newest last: what was played twice counts once."""
    curve: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    teacher: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for attempt in attempts:
        for every, mine in ((curve, attempt.curve), (teacher, attempt.teacher)):
            for game, points in mine.items():
                every[game] |= points
    last = attempts[-1].student.updates

    def kept(found: dict[str, dict[int, np.ndarray]]) -> dict[str, dict[int, np.ndarray]]:
        return {
            game: {update: points[update] for update in sorted(points) if update <= last}
            for game, points in found.items()
        }

    earlier = tuple(attempt.folder for attempt in attempts[:-1])
    return replace(attempts[-1], curve=kept(curve), teacher=kept(teacher), earlier=earlier)


def read_curve(path: Path) -> dict[str, dict[int, np.ndarray]]:
    """Returns by game and update.

    Raises:
        ValueError: a number is none, or an episode is there twice.
        KeyError: a column is missing.
    """
    found: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            episodes, number = found[row["game"]][int(row["update"])], int(row["episode"])
            if number in episodes:
                raise ValueError(f"episode {number} of {row['game']} at update {row['update']}, which is there twice")
            episodes[number] = float(row["return"])
    return {
        game: {update: np.array([episodes[n] for n in sorted(episodes)]) for update, episodes in sorted(points.items())}
        for game, points in found.items()
    }


def described(config: dict[str, Any]) -> dict[str, Any]:
    """Size, loss, who acted, and other settings of a run, as they are shown: fields of a `Student`."""
    model = config["model"]
    settings = dict(model.get("init_args", {}))
    kind = class_of(model)
    size = str(settings.pop("size", kind))
    loss = str(settings.pop("loss", kind))
    temperature, perplexity = settings.pop("temperature", None), settings.pop("perplexity", None)
    for part in ("model", "data"):  # another class may do anything with the same options
        if (found := class_of(config.get(part, {}))) not in ("", loss, *CLASSES):
            settings[f"{part}_class"] = found
    if config.get("optimizer"):  # these are for the usual one
        settings = {name: value for name, value in settings.items() if name not in ("learning_rate", "warmup")}
    if loss == "kl" and temperature is not None:
        loss += f", τ = {temperature}" if temperature != "auto" else ""
        if "auto" in (temperature.values() if isinstance(temperature, dict) else [temperature]):
            loss += f", perplexity {perplexity:g}"
    settings.pop("games", None)
    data = config.get("data", {}).get("init_args", {})
    acts = acting(data) if "beta" in data else ""
    ignored = NO_DIFFERENCE - ({"memory"} if acts else set())  # in live play it is how many states are kept
    ignored |= set() if data.get("learn") else {"lessons"}  # of a teacher that learns
    for source, names in ((data, data.keys() - ignored), (config.get("trainer", {}), LEARNING)):
        settings |= {name: source[name] for name in names if source.get(name) not in (None, {}, [], False)}
    for name in {"protocol", "fire"} & settings.keys():  # of live play; a score's are the rollouts'
        settings[f"played_by_{name}"] = settings.pop(name)
    if settings.get("accumulate_grad_batches") == 1:
        del settings["accumulate_grad_batches"]
    settings |= {name: config[name] for name in ("optimizer", "lr_scheduler") if config.get(name)}
    said = tuple(f"{key} {short(value)}" for key, value in sorted(settings.items()))
    return {"size": size, "loss": loss, "acts": acts, "settings": said}


def class_of(part: dict[str, Any]) -> str:
    """The name of a class in a configuration."""
    return str(part.get("class_path", "")).rsplit(".", 1)[-1]


def short(value: Any) -> str:
    """A setting as it is shown: of a class its name, and what it was given."""
    if isinstance(value, dict) and "class_path" in value:
        given = ", ".join(
            f"{key} {short(each)}" for key, each in value.get("init_args", {}).items() if each is not None
        )
        name = class_of(value)
        return f"{name} ({given})" if given else name
    if isinstance(value, list):
        return ", ".join(map(short, value))
    return str(value)


def acting(data: dict[str, Any]) -> str:
    """Who acted in live play, by the options of its data."""
    first, last = data["beta"], data["beta"] if data.get("beta_end") is None else data["beta_end"]
    if first == last and first in (0, 1):
        return "the teacher acts" if first else "the student acts"
    begins = f"the teacher acts at {first:.0%} of the steps"
    return begins if first == last else f"{begins}, after {data['beta_steps']:,} at {last:.0%}"
