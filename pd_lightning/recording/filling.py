"""A folder is filled with shards: by this process, by several that share the work, or by a cluster."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from pd_lightning.blocks import Header, Shard, ShardError, ShardTaken
from pd_lightning.blocks.folders import shard_name
from pd_lightning.cluster import on_ray
from pd_lightning.machine import chosen_device
from pd_lightning.recording.shards import check_same, record_shard
from pd_lightning.teacher import Teacher, load_teacher

PATIENCE = 0.5
"""Seconds between two looks at a shard that another process is recording."""


def shard_path(folder: Path, plan: Header) -> Path:
    """Where a shard of a game's folder lies."""
    return folder / shard_name(plan.shard)


def kept_shard(path: Path, plan: Header, progress: Progress) -> Shard:
    """A shard that is there.

    Raises:
        ShardError: it is broken, or of another recording.
    """
    shard = Shard(path)
    check_same(path, shard.header, plan)
    progress.console.out(f"kept     {path}")
    return shard


class Rate(ProgressColumn):
    """Steps a second, worked out when it is shown: from up to a thousand samples, too many for each decision."""

    def render(self, task: Task) -> Text:
        """Nothing where shards are counted."""
        return Text(f"{task.speed or 0:,.0f}/s" if task.fields["unit"] == "steps" else "")


def show_steps(progress: Progress, name: str, goal: int) -> Callable[[int], None]:
    """A function that counts the steps of a shard, and shows them as a bar from the first on."""
    bar: TaskID | None = None

    def step(count: int) -> None:
        nonlocal bar
        if bar is None:
            bar = progress.add_task(name, total=goal, unit="steps")
        done = progress.tasks[bar].completed + count  # of the episodes that were begun all are finished
        progress.update(bar, completed=done, total=max(goal, done))

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
    while missing := {shard_path(folder, plan): plan for plan in plans if plan.shard not in shards}:
        finished = [path for path in missing if path.exists()]
        for path in finished:
            shards[missing[path].shard] = kept_shard(path, missing[path], progress)
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


@dataclass(frozen=True, eq=False)  # told apart by what they are, not by their content: a header has no hash
class ShardTask:
    """A shard that some machine of a cluster is to record.

    Attributes:
        path: the shard.
        header: what it is to be.
        teacher: a file, or a name on the Hugging Face Hub.
        device: where the teacher runs.
    """

    path: Path
    header: Header
    teacher: str
    device: str

    def __str__(self) -> str:
        return str(self.path)


def record_task(task: ShardTask) -> None:
    """Records a shard, unless it is there or somebody else records it.

    Raises:
        ShardError: it cannot be written, or this machine has another teacher under that name.
    """
    agent = load_teacher(task.teacher, task.header.game).to(chosen_device(task.device))
    if agent.sha256 != task.header.teacher_sha256:
        raise ShardError(
            f"{task.path}: teacher_sha256 is to be {task.header.teacher_sha256}, {task.teacher} on "
            f"{platform.node()} has {agent.sha256}; all machines of the cluster must see the same folders"
        )
    while not task.path.exists():
        try:
            record_shard(agent, task.path, task.header, lambda steps: None)
        except ShardTaken:
            time.sleep(PATIENCE)


def fill_on_ray(address: str, tasks: list[ShardTask], progress: Progress) -> list[Shard]:
    """Keeps the shards that are there, and has a cluster record the others, each a task of its own.

    Args:
        address: of the cluster, see `on_ray`.
        tasks: all shards.
        progress: gets a bar of shards.

    Raises:
        ShardError: a shard that is there is of another recording, or one cannot be written.
        TeacherError: a machine cannot load the teacher.
        ClusterError: there is no cluster.
    """
    shards = {task: kept_shard(task.path, task.header, progress) for task in tasks if task.path.exists()}
    missing = [task for task in tasks if task not in shards]
    bar = progress.add_task("shards", total=len(tasks), completed=len(shards), unit="")
    for task, error in on_ray(address, record_task, missing) if missing else ():
        if error:
            raise error
        shards[task] = Shard(task.path)
        check_same(task.path, shards[task].header, task.header)
        progress.console.out(f"recorded {task.path}")
        progress.advance(bar)
    return [shards[task] for task in tasks]
