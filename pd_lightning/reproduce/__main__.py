"""The command line of the reproduction."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Literal

from rich.console import Console

from pd_lightning.commands import STOPPED, called, status_of
from pd_lightning.reproduce.plans import EXPERIMENTS, Settings, plan
from pd_lightning.reproduce.results import write_results
from pd_lightning.reproduce.tasks import Task, TaskBusy, TaskError
from pd_lightning.reproduce.workers import Outcome, here, on_cluster

Experiment = Literal["losses", "compression", "multi-task", "temperature", "on-policy", "online", "all"]


def show(tasks: tuple[Task, ...], ray: str | None, at_once: int, console: Console) -> list[Outcome]:
    """Does what is missing, a line for each task as it begins and ends; returns what was not done."""
    missing = [task for task in tasks if not task.done]
    for task in tasks:
        if task not in missing:
            console.print(f"done      {task.name}")

    def begun(task: Task) -> None:
        console.print(f"begins    {task.name}  ({task.folder}/log.txt)")

    failed = []
    outcomes = on_cluster(ray, missing, begun) if ray and missing else here(missing, at_once, begun)
    for number, (task, seconds) in enumerate(outcomes, 1):
        if isinstance(seconds, TaskError):
            failed.append((task, seconds))
            console.print(f"{'busy' if isinstance(seconds, TaskBusy) else 'failed':9} {seconds}")
        else:
            left = len(missing) - number
            console.print(f"ended     {task.name} after {seconds / 60:.1f} min, {left} to go")
    return failed


def check(settings: Settings, at_once: int) -> None:
    """Raises a ValueError that names the first setting that makes no sense."""
    for name in ("updates", "episodes", "hours"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"--{name} is {getattr(settings, name)}: choose more than 0")
    if at_once < 0:
        raise ValueError(f"--at_once is {at_once}: choose 0 (as many as there are devices), or more")
    if not settings.seeds or len(set(settings.seeds)) != len(settings.seeds) or min(settings.seeds) < 0:
        raise ValueError(f"--seeds is {list(settings.seeds)}: name at least one, each once, and none below 0")


def reproduce(
    experiment: Experiment,
    games: list[str] | None = None,
    seeds: list[int] = [0, 1, 2],  # noqa: B006 (never changed)
    quick: bool = False,
    updates: int | None = None,
    episodes: int = 30,
    hours: float | None = None,
    root: str = "datasets",
    output: str = "reproduction",
    at_once: int = 0,
    ray: str | None = None,
    options: list[str] = [],  # noqa: B006 (never changed)
) -> int:
    """Runs what is missing of an experiment of the paper, and writes tables, pictures and how they came about.

    The same command goes on where it was killed. Recordings that are missing are made first.

    Args:
        experiment: losses, compression, multi-task, temperature, on-policy (who acts), online, or all of them.
        games: to learn (default: those of the paper's table that have a recording or a teacher here).
        seeds: of the weights; each is a run.
        quick: 3,000 updates on an hour of play, for two cores, instead of 20,000 on four hours.
        updates: of each run, instead of those.
        episodes: of each final score, under protocol paper.
        hours: of play to record for games that have no recording, instead of those.
        root: folder of the datasets.
        output: folder of all runs, and of RESULTS.md, report.csv and the pictures.
        at_once: runs at once on this machine (default: one a GPU, or one).
        ray: address of a Ray cluster that does the runs, each on a GPU, or a core if it has none: HOST:6379, or auto;
            its machines must see the same folders (needs `pip install -e '.[ray]'`).
        options: more of `python train.py fit`, for every run, as '[--data.batch_size=128]'.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    names = list(EXPERIMENTS) if experiment == "all" else [experiment]
    updates = updates if updates is not None else 3000 if quick else 20_000
    hours = hours if hours is not None else 1.0 if quick else 4.0
    output, root = os.path.expanduser(output), os.path.expanduser(root)
    settings = Settings(output, root, tuple(games or ()), tuple(seeds), updates, episodes, hours, tuple(options))
    check(settings, at_once)
    planned = plan(names, settings)
    for game, reason in planned.left_out.items():
        console.print(f"left out  {game}: {reason}")
    recorded = ", ".join(Path(task.folder).name for task in planned.recordings)
    first = f"{hours:g} hours of {recorded} to record first, then " if recorded else ""
    console.print(f"planned   {first}{len(planned.runs)} runs of {updates:,} updates")
    failed = show(planned.recordings, ray, at_once, console)
    if failed:
        return 1
    failed = show(planned.runs, ray, at_once, console)
    ended = [task for task in planned.runs if task.done]
    if ended:
        command = shlex.join(["python", "-m", "pd_lightning.reproduce", *sys.argv[1:]])
        path = write_results(ended, settings, command, planned.left_out)
        console.print(f"results   {path}")
    return 1 if failed else 0


def main() -> int:
    """The command line."""
    status = status_of(lambda: called("reproduce", reproduce), "stopped; the same command goes on")
    if status == STOPPED:
        os._exit(status)  # threads wait for commands that the terminal has interrupted too
    return status


if __name__ == "__main__":
    sys.exit(main())
