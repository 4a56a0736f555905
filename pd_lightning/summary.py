"""The table at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from pd_lightning.agent import network_of
from pd_lightning.networks import QNetwork, parameter_count
from pd_lightning.rollout import Returns
from pd_lightning.scores import geometric_mean, interval, percent_of_teacher


def results_table(
    scores: Mapping[str, Returns], model: Any, data: Any, metrics: Mapping[str, Any], seconds: float
) -> Table:
    """One line a game.

    Args:
        scores: the last rollouts; of no game, if none was played.
        model: a module, whose `student` or `network` was trained.
        data: a data module; `teacher_returns`, where it has them, are what the score is a percentage of.
        metrics: what was logged last: `val/<game>/agreement`.
        seconds: that the run took.
    """
    network = network_of(model)
    parameters = parameter_count(network)
    games = games_of(network, data)
    share = 100 * parameters / parameter_count(QNetwork(games, "dqn"))
    protocol = next((returns.protocol for returns in scores.values()), "")
    teachers = returns_of_teachers(data, scores)
    table = Table(
        title=f"{size_of(network)}, {parameters:,} parameters ({share:.1f}% of dqn)",
        caption=", ".join([f"protocol {protocol}"] * bool(scores) + [f"{seconds:.0f} seconds"]),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    if hasattr(data, "teacher_returns") and scores.keys() - teachers.keys():
        unknown = "without a teacher's score: no recorded episodes that it alone played by these rules"
        table.caption = f"{table.caption}\n{unknown}"
    player = "student" if hasattr(model, "student") else "agent"
    table.add_column("game")
    for name in ("teacher ± 95%", f"{player} ± 95%", "episodes", "of teacher", "agreement"):
        table.add_column(name, justify="right")
    percents = []
    for game in games:
        returns, teacher = scores.get(game), teachers.get(game, np.empty(0))
        yardstick = float(teacher.mean()) if len(teacher) else math.nan
        percents.append(percent_of_teacher(returns.mean, yardstick) if returns else math.nan)
        table.add_row(
            game,
            _score(teacher),
            _score(returns.values) if returns else "-",
            str(len(returns.values)) if returns else "-",
            _number(percents[-1], ".1f", "%") if returns and returns.mean >= 0 else "-",
            _number(float(metrics.get(f"val/{game}/agreement", math.nan)), ".3f"),
        )
    mean = float(geometric_mean(percents))  # of all games or none; what was logged is gone after a validation
    if len(games) > 1 and not math.isnan(mean):
        table.add_section()
        table.add_row("geometric mean", "", "", "", f"{mean:.1f}%")
    return table


def games_of(network: Any, data: Any) -> Mapping[str, int]:
    """The games that a network plays, with their numbers of actions: as it says, or as the data do."""
    return getattr(network, "games", None) or data.actions


def size_of(network: Any) -> str:
    """What a network's size is called; of one that is none of ours, its class."""
    return getattr(network, "size", type(network).__name__)


def returns_of_teachers(data: Any, scores: Mapping[str, Returns]) -> dict[str, np.ndarray]:
    """Returns of each game's teacher, float64 [E], where it was played by the rules of its score here."""
    if not hasattr(data, "teacher_returns"):
        return {}
    found = {game: data.teacher_returns(returns.protocol, returns.fire) for game, returns in scores.items()}
    return {game: values[game] for game, values in found.items() if game in values}


def _score(values: np.ndarray) -> str:
    """Mean and 95% of returns [E], to four digits at least: of one episode no interval, of none a dash."""
    if not len(values):
        return "-"
    mean, (low, high) = values.mean(), interval(values)
    form = ".1f" if abs(mean) < 1000 else ".0f"
    return format(mean, form) + ("" if math.isnan(low) else f" ± {(high - low) / 2:{form}}")


def _number(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else format(value, form) + unit
