"""What the teachers of a report's games scored: the episodes that were recorded of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pd_lightning.blocks import Shard
from pd_lightning.recorded import open_game
from pd_lightning.report.runs import Run, Student


def recordings_of(root: Path, runs: list[Run]) -> dict[str, list[Shard]]:
    """The recordings of the games that were learned from recordings, where there are any."""
    games = sorted({game for run in runs for game in run.student.games if game not in run.teacher})
    return {game: open_game(root / game, game, allow_mixed=False) for game in games if any((root / game).glob("*.h5"))}


def teacher_of(shards: dict[str, list[Shard]], runs: list[Run], student: Student, game: str) -> np.ndarray:
    """Returns of a student's teacher, by the rules of the student's rollouts.

    Those of the last time that it was scored along with the student, if it was live; else of its recorded episodes.
    """
    live = [run.teacher[game] for run in runs if run.student == student and game in run.teacher]
    if live:
        return np.concatenate([points[max(points)] for points in live])
    found = shards.get(game, [])
    header = found[0].header if found else None
    fits = (
        header is not None
        and (header.protocol, header.player) == (student.protocol, "teacher")
        and student.fire in (None, header.fire)
    )
    return np.concatenate([shard.returns for shard in found]) if fits else np.empty(0)
