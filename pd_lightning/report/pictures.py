"""What the report's pictures have in common: a plot for each game, and a legend that is never cut off."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pd_lightning.files import atomic

WIDTH = 9.0
"""Inches; at 100 dots an inch that is the width of a README."""
LETTERS = 125
"""Of the legend's size, that fit into a line of that width."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's: told apart by the colour-blind."""
MARKERS = (".", "s", "^", "x")


def styles_of(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each line, the same in all plots; once the colours are used up, with another marker."""
    return {
        label: {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS) % len(MARKERS)],
                "markersize": 4 if number >= len(COLOURS) else 6}
        for number, label in enumerate(dict.fromkeys(labels))
    }  # fmt: skip


def figure_of(games: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a plot for each game, two in a row."""
    columns = min(2, len(games))
    rows = -(-len(games) // columns)
    figure = Figure((WIDTH, 3.2 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(games) :]:
        axis.remove()
    for game, axis in zip(games, axes, strict=False):
        axis.set_title(game, fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, dict(zip(games, axes, strict=False))


def finish(figure: Figure, axes: dict[str, Axes], path: Path, note: str = "") -> Path:
    """A legend below, in as many columns as fit, under a line that says what is drawn, and the file."""
    handles: dict[str, Any] = {}
    for axis in axes.values():
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(textwrap.fill(label, LETTERS), handle)
    canvas = FigureCanvasAgg(figure)  # a file, never a window
    for columns in (3, 2, 1):
        legend = figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=8, frameon=False,
            title=note or None, title_fontsize=8,
        )  # fmt: skip
        box = legend.get_window_extent(canvas.get_renderer())
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)  # none of it at the plots' cost
    with atomic(path) as part:
        figure.savefig(part, bbox_inches="tight", pad_inches=0.05)
    return path
