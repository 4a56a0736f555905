"""A teacher plays, a dataset is written: `python -m pd_lightning.recording --game pong --hours 1`.

A shard is about an hour of play (54,000 steps) in whole episodes: once the hour is full no new episode starts, and
those that run are finished. Seeds follow from the shard's number, so shards can be recorded in any order, on many
machines, or again; finished ones are kept, and a killed recording is carried on by the same command. The same command
in two terminals shares the work.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import ale_py
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pd_lightning import __version__
from pd_lightning.atari import FRAME_SKIP, STEPS_PER_HOUR, Protocol, action_meanings, check_game, named_protocol
from pd_lightning.blocks import BLOCK, STACK, Header, Shard, ShardError, ShardTaken, ShardWriter
from pd_lightning.machine import chosen_device, keep_freed_memory
from pd_lightning.rollout import Moment, episode_seeds, moments
from pd_lightning.scores import interval
from pd_lightning.teacher import Teacher, TeacherError, load_teacher
from pd_lightning.tryout import references, show_tryout

RECORDING_SEEDS = 4
"""First part of the key of recorded episodes' seeds: they are never the seeds of a score."""
PATIENCE = 0.5
"""Seconds between two looks at a shard that another process is recording."""


class BlockBuilder:
    """Cuts an episode that arrives step by step into blocks.

    Args:
        writer: who takes the blocks.
    """

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self._open: dict[int, list[tuple[np.ndarray, np.ndarray, int, float]]] = {}
        self.returns: dict[int, float] = {}
        self.steps = 0

    def add(self, moment: Moment) -> None:
        """Takes one decision of every game that is being played."""
        for row, episode in enumerate(moment.episodes.tolist()):
            block = self._open.setdefault(episode, [])
            # A block's first step brings all 4 frames of its state, the others only their newest.
            frames = moment.states[row] if not block else moment.states[row, -1:]
            block.append((frames, moment.outputs[row], int(moment.actions[row]), float(moment.rewards[row])))
            self.returns[episode] = self.returns.get(episode, 0.0) + block[-1][3]
            self.steps += 1
            if len(block) == BLOCK or moment.ended[row]:
                self._flush(episode)

    def _flush(self, episode: int) -> None:
        """Hands an episode's running block to the writer."""
        frames, q_values, actions, rewards = zip(*self._open.pop(episode), strict=True)
        self._writer.add(
            np.concatenate(frames),
            np.stack(q_values).astype(np.float32),
            np.array(actions, np.uint8),
            np.array(rewards, np.float32),
            episode,
        )


def record_shard(teacher: Teacher, path: Path, header: Header, on_step: Callable[[int], None]) -> Shard:
    """Plays and writes one shard.

    Args:
        teacher: who plays.
        path: the file; it appears when it is whole.
        header: what is known beforehand; says the rules, the seeds and when to stop.
        on_step: called with the number of steps since the last call.

    Raises:
        ShardTaken: the file exists, or somebody else is writing it.
        ShardError: the file cannot be written.
    """
    rules = replace(
        named_protocol(header.protocol),
        epsilon=header.epsilon,
        noop_max=header.noop_max,
        frame_limit=header.frame_limit,
        sticky=header.sticky,
    )
    with ShardWriter(path, header) as writer:
        blocks = BlockBuilder(writer)

        def seeds() -> Iterator[int]:
            for episode in itertools.count():
                if blocks.steps >= header.steps_goal:
                    return
                yield int(episode_seeds(1, RECORDING_SEEDS, header.seed, header.shard, episode)[0])

        playing = moments(teacher, header.game, seeds(), rules, parallel=header.parallel_games, fire=header.fire)
        for moment in playing:
            blocks.add(moment)
            on_step(len(moment.episodes))
        writer.finish([blocks.returns[episode] for episode in range(len(blocks.returns))])
    return Shard(path)


def check_same(path: Path, found: Header, wanted: Header) -> None:
    """A finished shard may only be kept if the same command would write it again.

    Raises:
        ShardError: a field differs; the message names it.
    """
    for field in ("game", "protocol", "epsilon", "noop_max", "frame_limit", "sticky", "fire", "seed", "shard",
                  "steps_goal", "parallel_games", "teacher_sha256", "outputs"):  # fmt: skip
        if getattr(found, field) != getattr(wanted, field):
            raise ShardError(
                f"{path}: {field} is {getattr(found, field)}, this recording's is {getattr(wanted, field)}; "
                "delete the file to record it again, or record to another --root"
            )


def show_steps(progress: Progress, name: str, goal: int) -> Callable[[int], None]:
    """A function that counts the steps of a shard, and shows them as a bar from the first on."""
    bar: TaskID | None = None

    def step(count: int) -> None:
        nonlocal bar
        if bar is None:
            bar = progress.add_task(name, total=goal, rate="")
        speed = progress.tasks[bar].speed
        progress.update(bar, advance=count, rate=f"{speed:,.0f} steps/s" if speed else "")

    return step


def fill(agent: Teacher, folder: Path, plans: list[Header], progress: Progress) -> list[Shard]:
    """Keeps the shards that are there, records those that nobody else is recording, waits for those that others are.

    Args:
        agent: who plays.
        folder: the game's.
        plans: what each shard is to be; they differ in number and goal.
        progress: gets a line for each shard, and a bar for each that is recorded here.

    Raises:
        ShardError: a shard that is there is of another recording, or one cannot be written.
    """
    shards: dict[int, Shard] = {}
    busy: set[Path] = set()
    while missing := {folder / f"{plan.shard:04d}.h5": plan for plan in plans if plan.shard not in shards}:
        finished = [path for path in missing if path.exists()]
        for path in finished:
            shard = Shard(path)
            check_same(path, shard.header, missing[path])
            shards[missing[path].shard] = shard
            progress.console.out(f"kept     {path}")
        if finished:
            continue
        # Only a finished shard tells whether another process records the same as this one. So the first is waited for.
        for path, plan in itertools.islice(missing.items(), None if shards else 1):
            try:
                on_step = show_steps(progress, f"{plan.game} {path.name}", plan.steps_goal)
                shards[plan.shard] = record_shard(agent, path, plan, on_step)
            except ShardTaken:
                if path not in busy:
                    progress.console.out(f"busy     {path}: another process is recording it")
                    busy.add(path)
            else:
                progress.console.out(f"recorded {path}")
                break  # and look again: others may have finished theirs
        else:
            time.sleep(PATIENCE)
    return [shards[plan.shard] for plan in plans]


def header_of(teacher: Teacher, rules: Protocol, parallel: int, seed: int = 0, fire: bool = False) -> Header:
    """What is known of a recording before it begins; number and length of the shard are yet to be said.

    Args:
        teacher: who plays.
        rules: of play.
        parallel: games played side by side.
        seed: of the episodes.
        fire: press FIRE for the teacher at a start and after each lost life.
    """
    return Header(
        game=teacher.game,
        action_meanings=action_meanings(teacher.game),
        protocol=rules.name,
        frame_skip=FRAME_SKIP,
        max_pool=True,
        stack=STACK,
        noop_max=rules.noop_max,
        fire=fire,
        sticky=rules.sticky,
        epsilon=rules.epsilon,
        frame_limit=rules.frame_limit,
        seed=seed,
        shard=0,
        parallel_games=parallel,
        steps_goal=0,
        versions={"pd_lightning": __version__, "ale_py": ale_py.__version__},
        teacher=teacher.name,
        teacher_sha256=teacher.sha256,
        outputs=teacher.outputs,
    )


def record(
    game: str,
    hours: float = 1.0,
    root: str = "datasets",
    teacher: str | None = None,
    protocol: str = "paper",
    fire: bool | None = None,
    parallel: int = 8,
    seed: int = 0,
    device: str = "auto",
    check: int = 4,
) -> list[Shard]:
    """Records a teacher's play: states, Q-values, actions and rewards, in shards of about an hour.

    Shards that are complete are kept, so the same command continues an interrupted recording, and a larger --hours
    extends a finished one of whole hours. Several processes with the same command share the shards among them.

    Args:
        game: the game, in the emulator's snake case (ms_pacman).
        hours: of play at 60 frames a second; 54,000 steps each. The paper recorded 10.
        root: where datasets live; shards go to ROOT/GAME/0000.h5, 0001.h5, ...
        teacher: a file of ours, of Stable-Baselines3 or of CleanRL, or hf://OWNER/NAME on the Hugging Face Hub
            (default: ROOT/GAME/teacher.safetensors).
        protocol: rules of play: paper, nature or machado.
        fire: press FIRE for the teacher at a start and after each lost life (default: as it was trained).
        parallel: games played side by side; all of them are finished when the hour is full, so many overshoot it.
        seed: of the episodes.
        device: where the teacher runs: auto, cpu, cuda, cuda:1, ...
        check: episodes that the teacher plays first, to be compared with published scores: a warning if it plays like
            random. Not where shards are there already; 0 leaves it out.
    """
    if not 0.5 / STEPS_PER_HOUR < hours < math.inf:
        raise ValueError(f"--hours is {hours}: it must be a number more than 0, and at least a step")
    if parallel < 1:
        raise ValueError(f"--parallel is {parallel}: it must be at least 1")
    if check < 0:
        raise ValueError(f"--check is {check}: it must be at least 0")
    rules = named_protocol(protocol)
    folder = Path(root) / check_game(game)
    agent = load_teacher(teacher or folder / "teacher.safetensors", game).to(chosen_device(device))
    if fire is None and agent.fire:
        print(
            f"{game}: FIRE is pressed for the teacher, as it was trained; --fire false leaves it out", file=sys.stderr
        )
    full, rest = divmod(round(hours * STEPS_PER_HOUR), STEPS_PER_HOUR)
    goals = [STEPS_PER_HOUR] * full + [rest] * (rest > 0)
    header = header_of(agent, rules, parallel, seed, agent.fire if fire is None else fire)
    plans = [replace(header, shard=number, steps_goal=goal) for number, goal in enumerate(goals)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"),
               TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    if check and not any((folder / f"{plan.shard:04d}.h5").exists() for plan in plans):
        show_tryout(agent, rules.name, header.fire, check, console)
    with Progress(*columns, console=console) as progress:
        return fill(agent, folder, plans, progress)


def summary(shards: list[Shard]) -> Table:
    """A table of what lies on disk: states, bytes a state, episodes, mean return with its 95% interval."""
    table = Table(title="recorded")
    for name in ("shard", "states", "bytes a state", "episodes", "mean return", "95% interval"):
        table.add_column(name, justify="left" if name == "shard" else "right")
    rows = [(str(shard.path), len(shard), Path(shard.path).stat().st_size, shard.returns) for shard in shards]
    if len(rows) > 1:
        rows.append(("all", sum(r[1] for r in rows), sum(r[2] for r in rows), np.concatenate([r[3] for r in rows])))
    for name, states, size, returns in rows:
        low, high = interval(returns)
        spread = "-" if math.isnan(low) else f"{low:.1f} to {high:.1f}"
        table.add_row(name, f"{states:,}", f"{size / states:.1f}", str(len(returns)), f"{returns.mean():.1f}", spread)
    table.caption = references(shards[0].header.game)
    return table


def main() -> int:
    """The command line."""
    keep_freed_memory()
    try:
        shards = auto_cli(record, as_positional=False, prog="python -m pd_lightning.recording")
    except (ShardError, TeacherError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Console().print(summary(shards))
    return 0


if __name__ == "__main__":
    sys.exit(main())
