"""Runs as their folders tell them: what was set, and every episode that was played."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

from pd_lightning.report.settings import described

NEEDED, METRICS = ("config.yaml", "returns.csv"), "metrics.csv"
RECORDED = "recorded play"
Curves = dict[str, dict[int, np.ndarray]]
"""Returns of episodes by game and update, float64 [n]."""


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

    def after(self, earlier: Sequence[Student]) -> Student:
        """Itself, if the runs that it goes on from had the same settings; else with settings that say what they had."""
        here = {self.loss, self.acts or RECORDED, self.root, *self.settings}
        others = []
        for each in earlier:
            if replace(each, updates=self.updates, protocol=self.protocol, fire=self.fire) != self:
                there = (each.loss, each.acts or RECORDED, each.root, *each.settings)
                others.append(", ".join(said for said in there if said not in here) or "other settings")
        said = tuple(f"goes on from {other}" for other in dict.fromkeys(others))
        return replace(self, settings=(*self.settings, *said))


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: the run's.
        seed: of the weights; -1 where there was none, by `--seed_everything false`.
        data_seed: of the data: another split, or other play.
        student: what was trained.
        curve: returns of the episodes.
        teacher: the same of the teacher, if it was live; of a recorded one its recorded episodes, at the update at
            which the run was first compared with them.
        learning: whether it learned meanwhile.
        temperatures: what divided the teacher's Q-values, by game; nothing of other losses than kl, and where unknown.
        earlier: folders of the attempts that it goes on from.
    """

    folder: Path
    seed: int
    data_seed: int
    student: Student
    curve: Curves
    teacher: Curves = field(default_factory=dict)
    learning: bool = False
    temperatures: dict[str, float] = field(default_factory=dict)
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
        seed = -1 if config["seed_everything"] is False else int(config["seed_everything"])
        rollouts = config["rollouts"]
        protocol, fire = str(rollouts["protocol"]), rollouts.get("fire")
        curve = read_curve(folder / "returns.csv")
        compared = folder / "teacher_returns.csv"
        teacher = read_curve(compared) if compared.is_file() else {}
        temperatures = read_temperatures(folder / METRICS)
        updates = {max(points) for points in curve.values()}
        if len(updates) > 1:
            raise ValueError(f"games whose last rollouts differ, {sorted(updates)}")
        data = config.get("data", {}).get("init_args", {})
        if "root" in data:
            data["root"] = normal(str(data["root"]))
        student = Student(
            **described(config, sharpened=bool(temperatures)),
            games=tuple(sorted(curve)),
            updates=max(updates, default=0),
            protocol=protocol,
            fire=fire,
            root="" if "beta" in data else data.get("root", ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ReportError(
            f"{folder}: {NEEDED[0]}, {NEEDED[1]} or {METRICS} lacks or garbles {reason}; leave it out"
        ) from None
    if not curve:
        raise ReportError(f"{folder}: returns.csv has no episodes; the run was stopped before its first rollout")
    data_seed = int(data.get("seed") or 0)
    return Run(folder, seed, data_seed, student, curve, teacher, bool(data.get("learn")), temperatures)


def normal(root: str) -> str:
    """A folder, or a URL, however it was written."""
    return root.rstrip("/") if "://" in root else os.path.normpath(root)


def joined(attempts: Sequence[Run]) -> Run:
    """A run that was resumed, from the folders of all attempts, the newest last: what was played twice counts once."""
    curve: Curves = defaultdict(dict)
    teacher: Curves = defaultdict(dict)
    for attempt in attempts:
        for every, mine in ((curve, attempt.curve), (teacher, attempt.teacher)):
            for game, points in mine.items():
                every[game] |= points
    last = attempts[-1].student.updates

    def kept(found: Curves) -> Curves:
        return {
            game: {update: points[update] for update in sorted(points) if update <= last}
            for game, points in found.items()
        }

    student = attempts[-1].student.after([attempt.student for attempt in attempts[:-1]])
    earlier = tuple(attempt.folder for attempt in attempts[:-1])
    return replace(attempts[-1], student=student, curve=kept(curve), teacher=kept(teacher), earlier=earlier)


def read_curve(path: Path) -> Curves:
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


def read_temperatures(path: Path) -> dict[str, float]:
    """What was noted of each game when learning began; nothing where there is no such file.

    Raises:
        ValueError: a number is none.
    """
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in row.items()]
    prefix = "temperature/"
    return {name.removeprefix(prefix): float(value) for name, value in cells if name.startswith(prefix) and value}
