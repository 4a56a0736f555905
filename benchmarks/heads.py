"""What ten games' heads cost a student, beside one head: the same trunk, the same number of states in an update.

    python -m benchmarks.heads

Both learn from one fixed batch, by turns of one update in one process: the ratio within a turn is what counts.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.training import bare_update, synchronise
from pd_lightning.agent import adam
from pd_lightning.atari import action_meanings
from pd_lightning.machine import fastest_precision, keep_freed_memory
from pd_lightning.networks import Student
from pd_lightning.scores import PAPERS_GAMES
from pd_lightning.streaming import Batch

TEN = list(PAPERS_GAMES)
WARM_UP = 3
"""Turns before the clock starts."""


def learner(games: Mapping[str, int], size: str, states: int, device: torch.device) -> Callable[[], float]:
    """An update of a student, and the seconds that it takes.

    Args:
        games: number of actions of each.
        size: of the student.
        states: of each game in an update.
        device: where it learns.
    """
    torch.manual_seed(0)
    student = Student(games, size).to(device)
    optimizer = adam(student.parameters(), 1e-3)
    batch = {
        game: Batch(
            torch.randint(256, (states, 4, 84, 84), dtype=torch.uint8, device=device),
            torch.randn(states, actions, device=device),
        )
        for game, actions in games.items()
    }

    def update() -> float:
        synchronise(device)
        started = time.perf_counter()
        bare_update(student, optimizer, batch, fastest_precision("auto"))
        synchronise(device)
        return time.perf_counter() - started

    return update


def heads(
    games: list[str] = TEN,
    size: str = "multi10",
    states: int = 64,
    turns: int = 20,
    output: str | None = None,
) -> None:
    """Compares a student of several games with one of a single game that sees as many states.

    Args:
        games: of the one; the other's is the first of them.
        size: of both.
        states: of each game in an update; of the single game, as many as of all together.
        turns: that are timed.
        output: JSON file for all figures.
    """
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    actions = {game: len(action_meanings(game)) for game in games}
    learners = {
        f"{len(games)} heads": learner(actions, size, states, device),
        "one head": learner({games[0]: actions[games[0]]}, size, states * len(games), device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for turn in track(range(WARM_UP + turns), "learning", console=Console(stderr=True)):
        for name, update in learners.items():
            took = update()
            if turn >= WARM_UP:
                seconds[name].append(took)
    many, one = seconds.values()
    ratios = [b / a for a, b in zip(many, one, strict=True)]
    table = Table(title=f"{size}, {states * len(games)} states an update, {fastest_precision('auto')}")
    for name in ("", "states/s", "of one head"):
        table.add_column(name, justify="left" if not name else "right")
    low, _, high = statistics.quantiles(ratios, n=4)
    shares = [f"{statistics.median(ratios):.3f} (half of the turns {low:.2f} to {high:.2f})", ""]
    for (name, times), share in zip(seconds.items(), shares, strict=True):
        table.add_row(name, f"{states * len(games) / statistics.median(times):,.0f}", share)
    Console(width=100).print(table)
    if output:
        Path(output).write_text(json.dumps({"seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(heads, as_positional=False, prog="python -m benchmarks.heads")
