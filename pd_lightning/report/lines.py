"""What programs want of the report: CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pd_lightning.files import atomic
from pd_lightning.report.groups import Measures
from pd_lightning.report.runs import Student

STUDENT_COLUMNS = ("size", "loss", "games", "settings", "acts", "updates", "protocol", "game")
RUN = ("run", "seed", "data_seed", "episodes", "return", "return_std", "teacher", "percent_of_teacher", "above_random",
       "human_normalised", "temperature", "runs")  # fmt: skip
STUDENT = ("runs", "episodes", "score", "score_low", "score_high", "teacher", "percent_of_teacher", "percent_low",
           "percent_high", "above_random", "human_normalised")  # fmt: skip


def write_runs(path: Path, measures: Measures) -> Path:
    """Writes a line for each run and game; returns the file."""
    rows = []
    for student, games in measures.items():
        for game, found in games.items():
            for number, one in enumerate(found.singles):
                (values,) = one.runs
                deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
                rows.append([*student_cells(student, game), number, *found.seeds[number], len(values), one.score,
                             deviation, one.teacher_mean, one.percent, one.above_random, one.human,
                             found.temperatures[number], found.folders[number]])  # fmt: skip
    return write_csv(path, STUDENT_COLUMNS + RUN, rows)


def write_students(path: Path, measures: Measures) -> Path:
    """Writes a line for each student and game, with 95% intervals; returns the file."""
    rows = [
        [*student_cells(student, game), len(found.runs), sum(map(len, found.runs)), found.score, *found.score_interval,
         found.teacher_mean, found.percent, *found.percent_interval, found.above_random, found.human]
        for student, games in measures.items() for game, found in games.items()
    ]  # fmt: skip
    return write_csv(path, STUDENT_COLUMNS + STUDENT, rows)


def student_cells(student: Student, game: str) -> list[Any]:
    """The cells of `STUDENT_COLUMNS`."""
    settings = ", ".join(student.settings)
    return [student.size, student.loss, " ".join(student.games), settings, student.acts, student.updates,
            student.protocol, game]  # fmt: skip


def write_csv(path: Path, head: Sequence[str], rows: Iterable[list[Any]]) -> Path:
    """Writes a table; returns the file."""
    with atomic(path) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path
