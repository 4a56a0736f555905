"""Runs that differ in the seed alone, put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pd_lightning.networks import SIZES
from pd_lightning.report.measures import Measure
from pd_lightning.report.recorded import as_they_became
from pd_lightning.report.runs import Run, Student

Measures = dict[Student, dict[str, Measure]]
"""Every student with its games, both in the order in which they are shown."""


def order_of(student: Student) -> tuple:
    """Sizes from the largest, losses as in the paper, then the rest."""
    sizes = list(SIZES)
    size = sizes.index(student.size) if student.size in sizes else len(sizes)
    loss = next((n for n, name in enumerate(("mse", "nll", "kl")) if student.loss.startswith(name)), 3)
    how = (student.loss, student.acts, student.settings, student.updates)
    return (student.protocol, len(student.games), size, loss, *how)


def measure(runs: Iterable[Run], teachers: Callable[[Student, str], np.ndarray], *, noted: bool = True) -> Measures:
    """Groups runs that differ in the seed alone.

    Args:
        runs: in any order.
        teachers: returns of the recorded episodes of a game's teacher by the rules of a student's rollouts.
        noted: whether what each run noted of a recorded teacher counts.
    """
    groups: dict[Student, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        groups.setdefault(run.student, []).append(run)
    return {
        student: {
            game: Measure(
                game,
                tuple(run.returns[game] for run in groups[student]),
                teachers(student, game),
                together=len(student.games) > 1,
                own=own_teachers(groups[student], game, noted),
                seeds=tuple((run.seed, run.data_seed) for run in groups[student]),
                folders=tuple(run.folders for run in groups[student]),
                temperatures=tuple(run.temperatures.get(game, math.nan) for run in groups[student]),
            )
            for game in student.games
        }
        for student in sorted(groups, key=order_of)
    }


def own_teachers(runs: Sequence[Run], game: str, noted: bool) -> tuple[np.ndarray, ...]:
    """Last returns of each run's own teacher, if runs have teachers of their own; else nothing.

    They have, if those learned with their students, or if a recording was made anew between two runs.
    """
    points = [run.teacher.get(game, {}) for run in runs]
    if not all(points):
        return ()
    last = [each[max(each)] for each in points]
    if all(run.learning for run in runs):
        return tuple(last)
    recorded = as_they_became(last) if noted and not runs[0].student.acts else []
    return tuple(recorded) if any(not np.array_equal(each, recorded[0]) for each in recorded) else ()
