"""The last table: every student in every game, with everything that was set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pd_lightning.report.cells import between, markdown, of_teacher, percent, with_interval
from pd_lightning.report.groups import Measures
from pd_lightning.report.labels import always_said, shared_settings, told_apart
from pd_lightning.report.measures import Measure


def detail(measures: Measures) -> str:
    """Every student in every game."""
    rows, shared = [], shared_settings(measures)
    every = [(student, found) for student, games in measures.items() for found in games.values()]
    for student, found in every:
        episodes = "/".join(sorted({str(len(values)) for values in found.runs}))
        each = ", ".join(f"{values.mean():.1f}" for values in found.runs)
        rows.append([
            found.game, student.size, told_apart(student, shared), f"{student.updates:,}",
            f"{len(found.runs)} x {episodes}", each, f"{found.score:.1f} {between(*found.score_interval)}",
            "-" if math.isnan(found.teacher_mean) else f"{found.teacher_mean:.1f}",
            with_interval(of_teacher(found), *found.percent_interval),
            percent(found.above_random), percent(found.human),
        ])  # fmt: skip
    head = ["game", "size", "loss and settings", "updates", "runs x episodes", "return of each run", "score (95%)",
            "teacher", "of teacher (95%)", "above random", "human-normalised"]  # fmt: skip
    if len(rows) > 1:
        head, rows = ["row", *head], [[str(number), *row] for number, row in enumerate(rows, 1)]
    said = ", ".join(filter(always_said, shared))
    return (f"All of them: {said}.\n\n" if said else "") + markdown(head, rows) + folders([found for _, found in every])


def folders(rows: Sequence[Measure]) -> str:
    """Which runs each row is of, if there are several rows."""
    if len(rows) < 2:
        return ""
    lines = []
    for number, found in enumerate(rows, 1):
        each = ", ".join(f"`{folder}`" for run in found.folders for folder in run.split(";"))
        lines.append(f"{number}. {found.game}: {each}")
    return "\n\nThe folders of each row's runs:\n\n" + "\n".join(lines)
