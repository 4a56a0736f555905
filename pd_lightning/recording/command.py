"""What `python -m pd_lightning.recording` does."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pd_lightning.atari import STEPS_PER_HOUR, check_fire, check_game, named_protocol
from pd_lightning.blocks import Header, Shard
from pd_lightning.files import local_folder
from pd_lightning.machine import chosen_device
from pd_lightning.recording.filling import Rate, ShardTask, fill, fill_on_ray, shard_path
from pd_lightning.recording.shards import header_of
from pd_lightning.scores import interval
from pd_lightning.teacher import Teacher, load_teacher
from pd_lightning.tryout import references, show_tryout

GAMES_PER_HOUR = 36
"""Most games last for about 1,500 steps, 100 seconds."""


def usual_teacher(root: str, game: str) -> Path:
    """Where a game's teacher lies: in a root of datasets, else, if there is one, among those that ship."""
    places = [Path(place) / game / "teacher.safetensors" for place in (root, "datasets")]
    return next((path for path in places if path.is_file()), places[0])


def record(
    game: str,
    hours: float = 1.0,
    root: str = "datasets",
    teacher: str | None = None,
    protocol: str = "paper",
    fire: bool | None = None,
    parallel: int = 32,
    seed: int = 0,
    device: str = "auto",
    check: int = 4,
    ray: str | None = None,
) -> list[Shard]:
    """Records a teacher's play: states, Q-values, actions and rewards, in shards of about an hour.

    Shards that are complete are kept, so the same command continues an interrupted recording, and a larger --hours
    extends a finished one of whole hours. Several processes with the same command share the shards among them.

    Args:
        game: the game, in the emulator's snake case (ms_pacman).
        hours: of play at 60 frames a second; 54,000 steps each. The paper recorded 10.
        root: where datasets live; shards go to ROOT/GAME/0000.h5, 0001.h5, ...
        teacher: a file of ours, of Stable-Baselines3, CleanRL or Atari Agents, a run's folder, or hf://OWNER/NAME on
            the Hugging Face Hub (default: ROOT/GAME/teacher.safetensors, or else datasets/GAME/teacher.safetensors).
        protocol: rules of play: paper, nature or machado.
        fire: press FIRE for the teacher at a start and after each lost life (default: as it was trained).
        parallel: games played side by side, at most 36 for an hour and fewer where it is not full; all that were begun
            are finished.
        seed: of the episodes.
        device: where the teacher runs: auto, cpu, cuda, cuda:1, ...
        check: episodes that the teacher plays first, to be compared with published scores: a warning if it plays like
            random. Not where shards are there already; 0 leaves it out.
        ray: address of a Ray cluster that records, a shard a task: HOST:6379, or auto; its machines must see the same
            folders (needs `pip install -e '.[ray]'`).
    """
    check_amount(hours, parallel, seed, check)
    root = str(local_folder("--root", root))
    file = teacher or str(usual_teacher(root, check_game(game)))
    agent = load_teacher(file, game).to(chosen_device(device))
    if fire is None and agent.fire:
        print(
            f"{game}: FIRE is pressed for the teacher, as it was trained; --fire false leaves it out", file=sys.stderr
        )
    how = {"protocol": protocol, "fire": fire, "parallel": parallel, "seed": seed, "check": check}
    if ray is None:
        return record_play(agent, hours, root, **how)

    def on_cluster(folder: Path, plans: list[Header], progress: Progress) -> list[Shard]:
        return fill_on_ray(ray, [ShardTask(shard_path(folder, plan), plan, file, device) for plan in plans], progress)

    return record_play(agent, hours, root, **how, by=on_cluster)


def record_play(
    agent: Teacher,
    hours: float = 1.0,
    root: str = "datasets",
    *,
    protocol: str = "paper",
    fire: bool | None = None,
    parallel: int = 32,
    seed: int = 0,
    check: int = 4,
    by: Callable[[Path, list[Header], Progress], list[Shard]] | None = None,
) -> list[Shard]:
    """Records a teacher that is at hand, one of `Teacher.of` perhaps; otherwise, and the options, as `record`.

    Args:
        agent: who plays, on the device where it is.
        hours: see `record`, as all that follow.
        root: folder of the datasets.
        protocol: rules of play.
        fire: press FIRE for it.
        parallel: games played side by side.
        seed: of the episodes.
        check: episodes that it plays first.
        by: who fills a game's folder with the planned shards (default: this process).

    Raises:
        ValueError: a number makes no sense, or there is no such protocol.
        ShardError: a shard is there that is broken or of another recording, or one cannot be written.
    """
    check_amount(hours, parallel, seed, check)
    rules, folder = named_protocol(protocol), local_folder("--root", root) / agent.game
    full, rest = divmod(round(hours * STEPS_PER_HOUR), STEPS_PER_HOUR)
    goals = [STEPS_PER_HOUR] * full + [rest] * (rest > 0)
    if fire:
        check_fire(agent.game, "--fire")
    header = header_of(agent, rules, parallel, seed, agent.fire if fire is None else fire)
    plans = [
        replace(header, shard=number, steps_goal=goal, parallel_games=min(parallel, room_for(goal)))
        for number, goal in enumerate(goals)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
               Rate(), TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    if check and not any(shard_path(folder, plan).exists() for plan in plans):
        show_tryout(agent, rules.name, header.fire, check, console)
    with Progress(*columns, console=console) as progress:
        return by(folder, plans, progress) if by else fill(agent, folder, plans, progress)


def check_amount(hours: float, parallel: int, seed: int, check: int) -> None:
    """Raises a ValueError that names the first of these that makes no sense."""
    if not 0.5 / STEPS_PER_HOUR < hours < math.inf:
        raise ValueError(f"--hours is {hours}: it must be a number more than 0, and at least a step")
    if parallel < 1:
        raise ValueError(f"--parallel is {parallel}: it must be at least 1")
    if seed < 0:
        raise ValueError(f"--seed is {seed}: it must be at least 0")
    if check < 0:
        raise ValueError(f"--check is {check}: it must be at least 0")


def room_for(steps: int) -> int:
    """How many games may begin at once without more than `steps` being played, if they are of the usual length."""
    return max(1, round(GAMES_PER_HOUR * steps / STEPS_PER_HOUR))


def summary(shards: list[Shard]) -> Table:
    """A table of what lies on disk: states, bytes a state, episodes, mean return with its 95% interval."""
    table = Table(title=f"recorded in {escape(str(Path(shards[0].path).parent))}")
    for name in ("shard", "states", "bytes a state", "episodes", "mean return", "95% interval"):
        table.add_column(name, justify="left" if name == "shard" else "right")
    rows = [(Path(shard.path).name, len(shard), Path(shard.path).stat().st_size, shard.returns) for shard in shards]
    if len(rows) > 1:
        rows.append(("all", sum(r[1] for r in rows), sum(r[2] for r in rows), np.concatenate([r[3] for r in rows])))
    for name, states, size, returns in rows:
        low, high = interval(returns)
        spread = "-" if math.isnan(low) else f"{low:.1f} to {high:.1f}"
        table.add_row(name, f"{states:,}", f"{size / states:.1f}", str(len(returns)), f"{returns.mean():.1f}", spread)
    table.caption = references(shards[0].header.game)
    return table
