"""The teachers of a picture: which of them are the same, and what tells the others apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pd_lightning.report.runs import Run, Student


def learning_curves_of(runs: Sequence[Run], student: Student) -> dict[str, list[dict[int, np.ndarray]]]:
    """Of the teachers that learned along with a student's runs, by game: returns by update, of each run."""
    found: dict[str, list[dict[int, np.ndarray]]] = {}
    for run in runs:
        for game, points in run.teacher.items():
            if run.student == student and run.learning:
                found.setdefault(game, []).append(points)
    return found


def teacher_lines(returns: Mapping[Student, np.ndarray], labels: Mapping[Student, str]) -> dict[str, float]:
    """Mean returns of the teachers that students of a game had: "teacher" if all had one, else what tells them apart.

    Args:
        returns: of each student's teacher; empty where that is not known.
        labels: of the students.
    """
    groups: list[list[Student]] = []
    for student, values in returns.items():
        same = [group for group in groups if np.array_equal(values, returns[group[0]])]
        if same:
            same[0].append(student)
        elif len(values):
            groups.append([student])
    shared = set.intersection(*(set(origin(student)) for student in returns)) if returns else set()
    apart = [tuple(each for each in origin(group[0]) if each not in shared) for group in groups]
    names = {}
    for group, own in zip(groups, apart, strict=True):
        if len(group) == len(returns):
            name = "teacher"
        elif own and Counter(apart)[own] == 1:
            name = ", ".join(["teacher", *own])
        else:
            name = f"teacher of {labels[group[0]]}" + (" and others" if len(group) > 1 else "")
        names[name] = float(returns[group[0]].mean())
    return names


def origin(student: Student) -> tuple[str, ...]:
    """Where the scores of a student's teacher are from, and by which rules."""
    return ("live" if student.acts else f"root {student.root}", *student.rules)
