"""What becomes of a score: keys in the logs, lines in a file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from pd_lightning.files import atomic
from pd_lightning.rollout import Returns
from pd_lightning.scores import geometric_mean, percent_of_teacher
from pd_lightning.summary import returns_of_teachers

COLUMNS = ("update", "game", "episode", "return", "steps", "seed")
"""Of `returns.csv` and `teacher_returns.csv`, a line for each episode."""


def rollout_metrics(scores: dict[str, Returns], teachers: dict[str, np.ndarray]) -> dict[str, float]:
    """What is logged of a rollout: `rollout/<game>/return`, `..._std`, and percent of the teacher where it is known."""
    metrics: dict[str, float] = {}
    for game, returns in scores.items():
        metrics[f"rollout/{game}/return"] = returns.mean
        metrics[f"rollout/{game}/return_std"] = returns.std
        if game in teachers:
            yardstick = float(teachers[game].mean())  # not numpy's number, with which no checkpoint loads
            metrics[f"rollout/{game}/percent_of_teacher"] = percent_of_teacher(returns.mean, yardstick)
    percents = [metrics[f"rollout/{game}/percent_of_teacher"] for game in scores if game in teachers]
    if percents and len(percents) == len(scores):  # of some games only it would be another number under the same name
        metrics["rollout/geometric_mean_percent"] = float(geometric_mean(percents))
    return metrics


def append_returns(path: Path, updates: int, scores: dict[str, Returns]) -> None:
    """Adds one line for each episode to `returns.csv`, see `COLUMNS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        for game, returns in scores.items():
            for episode, row in enumerate(zip(returns.values, returns.steps, returns.seeds, strict=True)):
                writer.writerow([updates, game, episode, *row])


def note_recorded(path: Path, updates: int, data: Any, scores: dict[str, Returns]) -> None:
    """Writes down, once, the recorded episodes that scores are compared with: the run can be reported without them.

    Args:
        path: `teacher_returns.csv`; steps and seeds are left empty, they are those of the recording.
        updates: when it was first compared.
        data: a data module; what a live one knows of its teachers was written when they were scored.
        scores: of the students, whose rules the teachers must have played by.
    """
    if path.exists() or hasattr(data, "unscored_teachers"):
        return
    found = returns_of_teachers(data, scores)
    rows = [(updates, game, n, value, "", "") for game, values in found.items() for n, value in enumerate(values)]
    if rows:
        with atomic(path) as part, part.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
