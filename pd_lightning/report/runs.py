"""Runs as their folders tell them: what was set, and every episode that was played."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

NEEDED = ("config.yaml", "returns.csv")
DATA_SETTINGS = ("batch_size", "mixing", "weights")
LIVE_SETTINGS = ("learn", "fresh", "memory")
"""What students may differ in, among the options of their data; the latter of a live teacher's."""


class ReportError(ValueError):
    """A folder is not a run that can be reported; the message names it and what is wrong."""


@dataclass(frozen=True)
class Student:
    """What makes runs comparable: those that differ in nothing of this differ in the seed alone.

    Attributes:
        size: of the network.
        loss: as it is shown: its temperature is part of it.
        games: that were learned together.
        acts: who acted where the teacher was live, as it is shown; nothing of recorded play.
        settings: everything else that was set for model, data and optimizer, each as it is shown.
        updates: at the last rollout.
        protocol: of the rollouts.
        fire: whether FIRE was pressed, if the run was told.
    """

    size: str
    loss: str
    games: tuple[str, ...]
    acts: str
    settings: tuple[str, ...]
    updates: int
    protocol: str
    fire: bool | None


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: the run's.
        seed: of the weights.
        student: what was trained.
        curve: returns of the episodes by game and update, float64 [n].
        teacher: the same of the teacher, if it was live.
    """

    folder: Path
    seed: int
    student: Student
    curve: dict[str, dict[int, np.ndarray]]
    teacher: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

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
        what = describe(config, tuple(sorted(curve)))
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ReportError(f"{folder}: config.yaml or returns.csv lacks or garbles {reason}; leave it out") from None
    if not curve:
        raise ReportError(f"{folder}: returns.csv has no episodes; the run was stopped before its first rollout")
    return Run(folder, seed, Student(*what, max(updates), protocol, fire), curve, teacher)


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


def describe(config: dict[str, Any], games: tuple[str, ...]) -> tuple[str, str, tuple[str, ...], str, tuple[str, ...]]:
    """Size, loss, games, who acted, and other settings of a run, as they are shown."""
    model = config["model"]
    settings = dict(model.get("init_args", {}))
    size = str(settings.pop("size"))
    loss = str(settings.pop("loss", model["class_path"].rsplit(".", 1)[-1]))
    temperature, perplexity = settings.pop("temperature", None), settings.pop("perplexity", None)
    if loss == "kl":
        loss += f", τ = {temperature}" if temperature != "auto" else f", perplexity {perplexity:g}"
    settings.pop("games", None)
    data = config.get("data", {}).get("init_args", {})
    kept = {key: data[key] for key in DATA_SETTINGS if data.get(key) is not None}
    acts = acting(data) if "beta" in data else ""
    if acts:
        kept |= {key: data[key] for key in LIVE_SETTINGS if data.get(key)}
    optimizer = config.get("optimizer")
    others = {**settings, **kept, **({"optimizer": optimizer["class_path"].rsplit(".", 1)[-1]} if optimizer else {})}
    return size, loss, games, acts, tuple(f"{key} {value}" for key, value in sorted(others.items()))


def acting(data: dict[str, Any]) -> str:
    """Who acted in live play, by the options of its data."""
    first, last = data["beta"], data["beta"] if data.get("beta_end") is None else data["beta_end"]
    if first == last and first in (0, 1):
        return "the teacher acts" if first else "the student acts"
    begins = f"the teacher acts at {first:.0%} of the steps"
    return begins if first == last else f"{begins}, after {data['beta_steps']:,} at {last:.0%}"


def shared_settings(students: Iterable[Student]) -> tuple[str, ...]:
    """What is set to the same for all of them."""
    every = [student.settings for student in students]
    return tuple(each for each in every[0] if all(each in other for other in every)) if len(every) > 1 else ()


def told_apart(student: Student, shared: tuple[str, ...]) -> str:
    """A student's loss, who acted, and those of its settings that not all have."""
    return ", ".join(filter(None, [student.loss, student.acts, *(s for s in student.settings if s not in shared)]))


def check_distinct(runs: Iterable[Run]) -> None:
    """Raises a ReportError if two runs have the same settings and seed: one would count twice."""
    seen: dict[tuple[Student, int], Path] = {}
    for run in runs:
        other = seen.setdefault((run.student, run.seed), run.folder)
        if other != run.folder:
            raise ReportError(
                f"{run.folder}: has the same settings and seed as {other}; a run counts once, so leave one of them out"
            )
