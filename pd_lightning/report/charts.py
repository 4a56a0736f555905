"""The report's pictures: learning curves, and score against size. Readable at the width of a README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pd_lightning.networks import SIZES
from pd_lightning.report.measures import Measure
from pd_lightning.report.runs import Run, Student, shared_settings, told_apart
from pd_lightning.report.tables import Measures, parameters_of
from pd_lightning.scores import interval

matplotlib.use("Agg")  # a file, never a window
WIDTH = 9.0
"""Inches; at 100 dots an inch that is the width of a README."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's: told apart by the colour-blind."""


def figure_of(games: Sequence[str], columns: int = 2) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a plot for each game."""
    columns = min(columns, len(games))
    rows = -(-len(games) // columns)
    figure = Figure((WIDTH, 3.2 * rows + 0.6), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(games) :]:
        axis.remove()
    for game, axis in zip(games, axes, strict=False):
        axis.set_title(game, fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, dict(zip(games, axes, strict=False))


def label_of(student: Student, shared: tuple[str, ...], *, updates: bool = False) -> str:
    """What a line is called, but for settings that all lines share; `updates` if they differ in those."""
    together = [f"{len(student.games)} games"] if len(student.games) > 1 else []
    after = [f"{student.updates:,} updates"] if updates else []
    return ", ".join([student.size, told_apart(student, shared), *together, *after])


def finish(figure: Figure, axes: dict[str, Axes], path: Path) -> Path:
    """A legend below, and the file."""
    handles: dict[str, object] = {}
    for axis in axes.values():
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)  # pyright: ignore[reportArgumentType]
    figure.savefig(path)
    return path


def draw(axis: Axes, curves: Sequence[dict[int, np.ndarray]], **style: Any) -> None:
    """A line of mean returns, and around it what lies between runs; of a single run, the 95% interval of its means.

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
        low, high = np.array([interval(curves[0][update]) for update in updates]).T
    axis.fill_between(updates, low, high, color=style["color"], alpha=0.15, linewidth=0)


def learning_curves(runs: Sequence[Run], measures: Measures, path: Path) -> Path:
    """Mean return over updates: a line for each student, and for its teacher if that learned meanwhile."""
    games = sorted({game for run in runs for game in run.curve})
    figure, axes = figure_of(games)
    shared = shared_settings(measures)
    several = len({student.updates for student in measures}) > 1
    for number, student in enumerate(measures):
        colour = COLOURS[number % len(COLOURS)]
        mine = [run for run in runs if run.student == student]
        for game in student.games:
            label = label_of(student, shared, updates=several)
            draw(axes[game], [run.curve[game] for run in mine], color=colour, label=label, marker=".")
            learning = [run.teacher[game] for run in mine if len(run.teacher.get(game, {})) > 1]
            if learning:
                draw(axes[game], learning, color="grey", label="teacher, learning", marker=".", linestyle="--")
    for game, axis in axes.items():
        learning = {run.student for run in runs if len(run.teacher.get(game, {})) > 1}
        teachers = [
            found[game].teacher
            for student, found in measures.items()
            if game in found and len(found[game].teacher) and student not in learning
        ]
        if teachers:
            axis.axhline(teachers[0].mean(), color="grey", linestyle="--", linewidth=1, label="teacher")
        axis.set_xlabel("updates", fontsize=8)
        axis.set_ylabel("mean return", fontsize=8)
    return finish(figure, axes, path)


def score_against_size(measures: Measures, path: Path) -> Path | None:
    """Percent above random of single-game students over their parameters; nothing if there is one size only."""
    single = {student: games for student, games in measures.items() if len(student.games) == 1}
    games = sorted({game for found in single.values() for game in found})
    if len({student.size for student in single} & SIZES.keys()) < 2:
        return None
    figure, axes = figure_of(games)
    shared, several = shared_settings(single), len({student.updates for student in single}) > 1
    # A line joins students that differ in their size alone.
    lines = {student: label_of(replace(student, size=""), shared, updates=several).strip(", ") for student in single}
    labels = sorted(set(lines.values()))
    for game, axis in axes.items():
        for number, label in enumerate(labels):
            mine = {student.size: found[game] for student, found in single.items()
                    if lines[student] == label and game in found and student.size in SIZES}  # fmt: skip
            draw_sizes(axis, mine, COLOURS[number % len(COLOURS)], label)
        axis.axhline(100, color="grey", linestyle="--", linewidth=1, label="teacher")
        name_sizes(axis, game, {student.size for student, found in single.items() if game in found} & SIZES.keys())
    return finish(figure, axes, path)


def draw_sizes(axis: Axes, sizes: Mapping[str, Measure], colour: str, label: str) -> None:
    """A line through the scores of a student in several sizes, and a dot for each run."""
    points = sorted((parameters_of(found.game, size), found) for size, found in sizes.items())
    if points:
        axis.plot([x for x, _ in points], [found.above_random for _, found in points], color=colour, label=label)
    for x, found in points:
        each = [Measure(found.game, (values,), found.teacher).above_random for values in found.runs]
        axis.plot([x] * len(each), each, color=colour, marker="o", markersize=4, linestyle="", alpha=0.6)


def name_sizes(axis: Axes, game: str, sizes: Iterable[str]) -> None:
    """Axes that begin at zero, or below it, and name the sizes."""
    known = sorted((parameters_of(game, size), size) for size in sizes)
    axis.set_xscale("log")
    axis.set_xticks([x for x, _ in known], [f"{size}\n{x / 1000:,.0f}k" for x, size in known], fontsize=8)
    axis.minorticks_off()
    axis.set_ylim(min(0.0, axis.get_ylim()[0]), max(105.0, axis.get_ylim()[1]))
    axis.set_xlabel("parameters", fontsize=8)
    axis.set_ylabel("% of teacher above random", fontsize=8)
