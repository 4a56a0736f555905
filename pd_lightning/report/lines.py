"""What programs want of the report: CSV."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from pd_lightning.files import whole
from pd_lightning.report.tables import Measures

CSV = """size loss games settings acts updates protocol game run episodes return return_std teacher percent_of_teacher
above_random human_normalised runs"""


def write_csv(path: Path, measures: Measures) -> Path:
    """Writes a line for each run and game; returns the file."""
    with whole(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV.split())
        for student, games in measures.items():
            for game, found in games.items():
                for number, one in enumerate(found.singles):
                    (values,) = one.runs
                    teacher = float(found.teacher.mean()) if len(found.teacher) else math.nan
                    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
                    writer.writerow([student.size, student.loss, " ".join(student.games), ", ".join(student.settings),
                                     student.acts, student.updates, student.protocol, game, number, len(values),
                                     one.score, deviation, teacher, one.percent, one.above_random,
                                     one.human, found.folders[number]])  # fmt: skip
    return path
