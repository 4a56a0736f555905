"""What the teachers of a report's games scored: the episodes that were recorded of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pd_lightning.blocks import Shard
from pd_lightning.recorded import open_game, returns_of_teacher
from pd_lightning.report.runs import Run, Student

Recordings = dict[tuple[str, str], list[Shard]]
"""Shards by the folder of datasets that a run was given, and game."""


def recordings_of(root: Path | None, runs: list[Run]) -> Recordings:
    """The recordings of the games that were learned from recordings, where there are any.

    Args:
        root: folder of the datasets; None is the one that each run was given.
        runs: that learned from them, or not.

    Raises:
        ShardError: a shard is broken or of another game.
    """
    found: Recordings = {}
    for run in runs:
        for game in run.student.games:
            folder = Path(root or run.student.root or "datasets") / game
            if game not in run.teacher and (run.student.root, game) not in found and any(folder.glob("*.h5")):
                found[run.student.root, game] = open_game(folder, game, allow_mixed=True)
    return found


def teacher_of(shards: Recordings, runs: list[Run], student: Student, game: str) -> np.ndarray:
    """Returns of a student's teacher, by the rules of the student's rollouts.

    Those of the last time that it was scored along with the student, if it was live; else of its recorded episodes, all
    of one teacher.
    """
    live = [run.teacher[game] for run in runs if run.student == student and game in run.teacher]
    if live:
        last = [points[max(points)] for points in live]
        if all(np.array_equal(each, last[0]) for each in last):  # one frozen teacher, scored in the same episodes
            return last[0]
        return np.concatenate(last)
    return returns_of_teacher(shards.get((student.root, game), []), student.protocol, student.fire)
