"""The report's pictures: learning curves, and score against size. Readable at the width of a README."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pd_lightning.networks import SIZES
from pd_lightning.report.groups import Measures
from pd_lightning.report.labels import label_of, shared_settings
from pd_lightning.report.measures import FEWEST, Measure
from pd_lightning.report.pictures import figure_of, finish, styles_of
from pd_lightning.report.runs import Run
from pd_lightning.report.tables import parameters_of
from pd_lightning.report.teachers import learning_curves_of, teacher_lines
from pd_lightning.scores import interval

DASHES = ("--", ":", "-.", (0, (8, 3)), (0, (1, 4)))
"""Of teachers' lines, one after the other."""


def draw(axis: Axes, curves: Sequence[dict[int, np.ndarray]], **style: Any) -> None:
    """A line of mean returns, and around it what lies between runs; of a single run, the 95% interval of its means.

    Of fewer than `FEWEST` episodes there is no such interval, as in the tables.

    Args:
        axis: where.
        curves: returns by update, of each run.
        style: of the line.
    """
    updates = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = np.array([[curve[update].mean() for update in updates] for curve in curves])
    axis.plot(updates, means.mean(0), **style)
    low, high = means.min(0), means.max(0)
    if len(curves) == 1:
        enough = [curves[0][update] if len(curves[0][update]) >= FEWEST else () for update in updates]
        low, high = np.array([interval(values) for values in enough]).T
    if len(updates) == 1:  # an area without a width would not be seen
        axis.vlines(updates, low, high, color=style["color"], alpha=0.5)
    else:
        axis.fill_between(updates, low, high, color=style["color"], alpha=0.15, linewidth=0)


def learning_curves(runs: Sequence[Run], measures: Measures, path: Path) -> Path:
    """Mean return over updates: a line for each student, and for each teacher."""
    figure, axes = figure_of(sorted({game for run in runs for game in run.curve}))
    shared, several = shared_settings(measures), len({student.updates for student in measures}) > 1
    labels = {student: label_of(student, shared, updates=several) for student in measures}
    styles = styles_of(labels.values())
    learning = {student: learning_curves_of(runs, student) for student in measures}
    together = len({labels[student] for student, curves in learning.items() if curves}) > 1
    for student, label in labels.items():
        mine = [run for run in runs if run.student == student]
        for game in student.games:
            draw(axes[game], [run.curve[game] for run in mine], label=label, **styles[label])
        for game, curves in learning[student].items():
            name = f"teacher of {label}, learning" if together else "teacher, learning"
            style = styles[label] if together else styles[label] | {"color": "grey"}
            draw(axes[game], curves, label=name, linestyle="--", **style)
    dashes: dict[str, Any] = {}
    for game, axis in axes.items():
        frozen = {student: found[game].teacher for student, found in measures.items()
                  if game in found and game not in learning[student]}  # fmt: skip
        for name, mean in teacher_lines(frozen, labels).items():
            dash = dashes.setdefault(name, DASHES[len(dashes) % len(DASHES)])
            axis.axhline(mean, color="grey", linestyle=dash, linewidth=1.2, label=name)
        axis.set_xlabel("updates", fontsize=8)
        axis.set_ylabel("mean return", fontsize=8)
    return finish(
        figure, axes, path, "Shaded, or a bar: from the least to the most of runs; of a single run, the 95% interval."
    )


def score_against_size(measures: Measures, path: Path) -> Path | None:
    """Percent above random of single-game students over their parameters; nothing if there is one size only."""
    single = {student: found for student, games in measures.items() for found in games.values()
              if len(student.games) == 1 and student.size in SIZES and not math.isnan(found.above_random)}  # fmt: skip
    if len({student.size for student in single}) < 2:
        return None
    figure, axes = figure_of(sorted({found.game for found in single.values()}))
    shared, several = shared_settings(single), len({student.updates for student in single}) > 1
    # A line joins students that differ in their size alone.
    lines = {student: label_of(replace(student, size=""), shared, updates=several) for student in single}
    styles = styles_of(sorted(lines.values()))
    for game, axis in axes.items():
        mine = {student: found for student, found in single.items() if found.game == game}
        for label, style in styles.items():
            sizes = {student.size: found for student, found in mine.items() if lines[student] == label}
            draw_sizes(axis, sizes, label, style)
        axis.axhline(100, color="grey", linestyle="--", linewidth=1, label="teacher")
        name_sizes(axis, game, {student.size for student in mine})
    return finish(figure, axes, path, "Lines: means over runs, with 95% intervals; dots: runs.")


def draw_sizes(axis: Axes, sizes: Mapping[str, Measure], label: str, style: Mapping[str, Any]) -> None:
    """A line through the scores of a student in several sizes; a dot for each run, a bar for the 95% interval."""
    points = sorted((parameters_of(found.game, size), found) for size, found in sizes.items())
    if not points:
        return
    axis.plot([x for x, _ in points], [found.above_random for _, found in points], **style, label=label)
    x = [x for x, found in points for _ in found.runs]
    each = [one.above_random for _, found in points for one in found.singles]
    axis.plot(x, each, **style, linestyle="", alpha=0.5)
    ends = np.array([found.above_random_interval for _, found in points])
    axis.vlines([x for x, _ in points], *ends.T, color=style["color"], alpha=0.5, linewidth=1)


def name_sizes(axis: Axes, game: str, sizes: Iterable[str]) -> None:
    """Axes that begin at zero, or below it, and name the sizes that have a score."""
    known = sorted((parameters_of(game, size), size) for size in sizes)
    axis.set_xscale("log")
    axis.set_xticks([x for x, _ in known], [f"{size}\n{x / 1000:,.0f}k" for x, size in known], fontsize=8)
    axis.minorticks_off()
    axis.set_ylim(min(0.0, axis.get_ylim()[0]), max(105.0, axis.get_ylim()[1]))
    axis.set_xlabel("parameters", fontsize=8)
    axis.set_ylabel("% of teacher above random", fontsize=8)
