"""What runs say, put together: for the report's command line, and for a reproduction's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pd_lightning.report.folders import runs_in
from pd_lightning.report.following import following_table
from pd_lightning.report.groups import Measures, measure
from pd_lightning.report.lines import write_runs, write_students
from pd_lightning.report.recorded import Recordings, recordings_of, teacher_of
from pd_lightning.report.runs import Run, Student
from pd_lightning.report.tables import report


@dataclass(frozen=True)
class Findings:
    """Runs, and what they are compared with.

    Attributes:
        runs: those that have a score.
        recordings: what they learned from.
        measures: of every student in every game.
    """

    runs: list[Run]
    recordings: Recordings
    measures: Measures

    @classmethod
    def of(cls, folders: Iterable[Path], root: Path | None = None, *, tests: bool = False) -> Findings:
        """Of the runs in these folders.

        Args:
            folders: of runs, or with runs somewhere below.
            root: the datasets, whose teachers they are compared with; None is what each run learned from.
            tests: score runs that were tested by their tests' episodes.

        Raises:
            ReportError: a folder is no run and has none, or what it holds is broken.
            ShardError: a recording is broken or of another game, or there is none where one was named.
        """
        runs = runs_in(list(folders), tests=tests)
        recordings = recordings_of(root, runs)

        def teachers(student: Student, game: str) -> np.ndarray:
            return teacher_of(recordings, runs, student, game, named=root is not None)

        return cls(runs, recordings, measure(runs, teachers, noted=root is None))

    @property
    def tables(self) -> str:
        """All tables, in Markdown."""
        return "\n".join(filter(None, [report(self.measures), following_table(self.runs)])).strip() + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Writes report.csv, students.csv, curves.png, and sizes.png where sizes differ; returns what was written."""
        from pd_lightning.report.charts import learning_curves, score_against_size  # takes a second to import

        pictures = [
            learning_curves(self.runs, self.measures, folder / "curves.png"),
            score_against_size(self.measures, folder / "sizes.png"),
        ]
        tables = [
            write_runs(folder / "report.csv", self.measures),
            write_students(folder / "students.csv", self.measures),
        ]
        return [*tables, *(picture for picture in pictures if picture)]
