"""What becomes of a score: keys in the logs, lines in a file."""

from __future__ import annotations

import csv
from pathlib import Path

from pd_lightning.rollout import Returns
from pd_lightning.scores import geometric_mean, percent_of_teacher


def rollout_metrics(scores: dict[str, Returns], teachers: dict[str, float]) -> dict[str, float]:
    """What is logged of a rollout: `rollout/<game>/return`, `..._std`, and percent of the teacher where it is known."""
    metrics: dict[str, float] = {}
    for game, returns in scores.items():
        metrics[f"rollout/{game}/return"] = returns.mean
        metrics[f"rollout/{game}/return_std"] = returns.std
        if game in teachers:
            metrics[f"rollout/{game}/percent_of_teacher"] = percent_of_teacher(returns.mean, teachers[game])
    percents = [metrics[f"rollout/{game}/percent_of_teacher"] for game in scores if game in teachers]
    if percents and len(percents) == len(scores):  # of some games only it would be another number under the same name
        metrics["rollout/geometric_mean_percent"] = float(geometric_mean(percents))
    return metrics


def append_returns(path: Path, updates: int, scores: dict[str, Returns]) -> None:
    """Adds one line for each episode to `returns.csv`: update, game, episode, return, steps, seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["update", "game", "episode", "return", "steps", "seed"])
        for game, returns in scores.items():
            for episode, row in enumerate(zip(returns.values, returns.steps, returns.seeds, strict=True)):
                writer.writerow([updates, game, episode, *row])
