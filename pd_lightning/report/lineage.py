"""Which run goes on from which: a run is what all attempts at it have left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import yaml

from pd_lightning.report.runs import NEEDED, Run, joined, read_run


def settings_of(folder: Path) -> dict:
    """What was set; nothing, where that cannot be read."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def joined_attempts(runs: Iterable[Run]) -> list[Run]:
    """Runs, those that go on from a checkpoint joined with what was played before it."""
    chains = [attempts(run) for run in runs]
    gone_on = {each.folder.resolve() for *before, last in chains for each in before if alike(each) == alike(last)}
    return [joined(chain) for chain in chains if chain[-1].folder.resolve() not in gone_on]


def attempts(run: Run) -> list[Run]:
    """A run, and before it those that have played and that it goes on from, the first one first."""
    chain, folder, seen = [run], run.folder.resolve(), set()
    while folder and folder not in seen:
        seen.add(folder)
        folder = predecessor(folder, run)
        if folder and folder not in seen and (folder / "returns.csv").is_file():
            chain.insert(0, read_run(folder))
    return [chain[0], *(begun_as(chain[0], each) for each in chain[1:])]


def begun_as(first: Run, run: Run) -> Run:
    """A run that goes on: what counts once, when it begins, is as in its first attempt, whatever was set now.

    The order of its states is what that one's memory gave, and its weights come from where that one had them.
    """
    begun, others = (
        [each for each in part.student.settings if each.startswith(("memory ", "begins_with ")) is of_first]
        for part, of_first in ((first, True), (run, False))
    )
    return replace(run, student=replace(run.student, settings=tuple(sorted([*begun, *others]))))


def predecessor(folder: Path, run: Run, *, seeded: bool = True) -> Path | None:
    """The folder of the run whose checkpoint this one began with.

    Where it was, or beside this one, may lie another by now, which happens to have its number.

    Args:
        folder: that began with a checkpoint.
        run: what it is a part, or a test, of.
        seeded: whether it has its predecessor's seed; a test's is its own.
    """
    then, places = begun_with(folder)
    played = {place: read_run(place) for place in places if is_run(place)}
    if seeded:  # one that is alike in all, if any is
        places.sort(key=lambda place: place not in played or alike(played[place]) != alike(run))
    for place in places:
        here = place == then and place.resolve().parent == folder.resolve().parent  # as it was, whatever was set anew
        if here or place not in played or same_network(played[place], run, seeded):
            return place
    return None


def begun_with(folder: Path) -> tuple[Path, list[Path]]:
    """Where the run lay whose checkpoint this one began with, and the folders of runs that it may be now.

    It may have been moved together with this one: then it lies beside it.
    """
    checkpoint = settings_of(folder).get("ckpt_path")
    if not checkpoint:
        return folder, []
    then = Path(str(checkpoint)).parent.parent
    places = [then] if then.is_absolute() else []
    if is_configured(then) or not Path(str(checkpoint)).is_file():  # else it is there, and was never a run's
        places.append(folder.parent / then.name)
    return then, [place for place in places if is_configured(place) and place.resolve() != folder.resolve()]


def is_configured(folder: Path) -> bool:
    """Whether a run of the command line has begun there."""
    return (folder / NEEDED[0]).is_file()


def is_run(folder: Path) -> bool:
    """Whether a folder holds what a run leaves that was scored."""
    return all((folder / name).is_file() for name in NEEDED)


def same_network(one: Run, other: Run, seeded: bool) -> bool:
    """Whether one of two runs can have gone on from the other, or been tested in it."""
    first, second = (
        (
            each.student.size,
            each.student.loss.partition(",")[0].partition(" (")[0],
            each.student.games,
            each.seed if seeded else 0,
        )
        for each in (one, other)
    )
    return first == second


def alike(run: Run) -> tuple:
    """What two attempts at one run have in common."""
    return replace(run.student, updates=0), run.seed, run.data_seed
