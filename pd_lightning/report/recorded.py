"""What the teachers of a report's games scored: the episodes that were recorded of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pd_lightning.blocks import Shard, ShardError
from pd_lightning.recorded import open_game, returns_of_teacher
from pd_lightning.report.runs import Run, Student

Recordings = dict[tuple[str, str], list[Shard]]
"""Shards by the folder of datasets that a run was given, and game."""


def recordings_of(root: Path | None, runs: list[Run]) -> Recordings:
    """The recordings that runs are to be compared with, where there are any; what is not there is said.

    Args:
        root: folder of the datasets; None is what each run noted of its teacher, and where it noted nothing, as before
            there was such a note, the one that it learned from.
        runs: that are to be compared with teachers.

    Raises:
        ShardError: a shard is broken or of another game; the folder that was given has none of the games.
    """
    found: Recordings = {}
    every = [(run, game) for run in runs for game in run.student.games]
    unknown = {
        (run.student.root, game): str(root or run.student.root)
        for run, game in every
        if game not in run.teacher and (root or run.student.root or run.student.acts)  # a teacher itself had none
    }
    again = {(run.student.root, game): str(root) for run, game in every if root and not run.student.acts}
    wanted = unknown | again
    for (given, game), datasets in wanted.items():
        folder = Path(datasets) / game
        if datasets and any(folder.glob("*.h5")):
            found[given, game] = open_game(folder, game, allow_mixed=True)
        elif (given, game) in unknown:
            place = f"{datasets} has no recording of it" if datasets else "it was not scored beside its student"
            print(f"left out: the teacher of {game}, as {place}; see --root", file=sys.stderr)
    if root and wanted and not found:
        raise ShardError(f"{root}: has a recording of none of the games; give the --root that they were learned from")
    return found


def teacher_of(shards: Recordings, runs: list[Run], student: Student, game: str, *, named: bool = False) -> np.ndarray:
    """Returns of a student's teacher, by the rules of the student's rollouts.

    Those of the last time that it was scored along with the student, if it was live; else of its recorded episodes, all
    of one teacher: of the recordings that are given, if they are named or a run of this student noted none, or what
    the runs noted.
    """
    given, mine = shards.get((student.root, game), []), [run for run in runs if run.student == student]
    noted = [run.teacher[game] for run in mine if game in run.teacher]
    if not noted or (given and not student.acts and (named or len(noted) < len(mine))):
        return returns_of_teacher(given, student.protocol, student.fire)
    last = [points[max(points)] for points in noted]
    distinct = {each.tobytes(): each for each in (last if student.acts else as_they_became(last))}
    return np.concatenate(list(distinct.values()))


def as_they_became(recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns of each recording and of what was added to it, as far as another one tells: hours are, between runs."""
    return [max((other for other in recordings if np.array_equal(other[: len(each)], each)), key=len)
            for each in recordings]  # fmt: skip
