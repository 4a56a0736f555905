"""Students of live teachers: how steadily they follow (the paper's section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pd_lightning.report.cells import markdown
from pd_lightning.report.runs import Run

NOTE = """\
Of the evaluations after half of the updates: mean over them of the mean return, and standard deviation between them,
each of one run's."""


@dataclass(frozen=True)
class Following:
    """One run's second half in one game, student and teacher as (mean, standard deviation between evaluations).

    Attributes:
        run: the run.
        game: the game.
        evaluations: how many.
        student: of the student.
        teacher: of the teacher, at the same updates.
    """

    run: Run
    game: str
    evaluations: int
    student: tuple[float, float]
    teacher: tuple[float, float]


def followings(runs: Sequence[Run]) -> list[Following]:
    """Those runs and games whose teacher was scored again and again beside the student."""
    found = []
    for run in runs:
        for game, teacher in run.teacher.items() if not run.student.root else ():  # else it was recorded
            curve = run.curve.get(game, {})
            late = [update for update in curve if update in teacher and 2 * update >= max(curve)]
            if len(late) < 2:
                continue
            means = [np.array([each[update].mean() for update in late]) for each in (curve, teacher)]
            student, master = ((float(m.mean()), float(m.std(ddof=1))) for m in means)
            found.append(Following(run, game, len(late), student, master))
    return found


def following_table(runs: Sequence[Run]) -> str:
    """A line for each run and game, or nothing if no run has a teacher that was scored along with it."""
    rows = [
        [each.game, str(each.run.seed), str(each.evaluations),
         *(f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in (each.teacher, each.student)),
         f"{each.student[1] / each.teacher[1]:.2f}" if each.teacher[1] else "-"]
        for each in followings(runs)
    ]  # fmt: skip
    if not rows:
        return ""
    head = ["game", "seed", "evaluations", "teacher", "student", "student's deviation / teacher's"]
    return f"## Following a live teacher\n\n{markdown(head, rows)}\n\n{NOTE}\n"
