"""The table of a benchmark: medians, and how they compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measurement
from pd_lightning.report.tables import markdown

Results = dict[str, list[Measurement] | str]
"""For each entry its repetitions, or why there are none."""

Cells = Callable[[Sequence[Measurement], Mapping[str, float]], str]


def _middle(name: str, form: str) -> Cells:
    return lambda runs, _: format(median(getattr(run, name) for run in runs), form)


def _spread(runs: Sequence[Measurement], _: Mapping[str, float]) -> str:
    rates = [run.states_per_second for run in runs]
    return f"{min(rates):,.0f} to {max(rates):,.0f}"


def _ratio(other: str, form: str) -> Cells:
    def cell(runs: Sequence[Measurement], rates: Mapping[str, float]) -> str:
        return format(median(run.states_per_second for run in runs) / rates[other], form) if other in rates else "-"

    return cell


COLUMNS: dict[str, Cells] = {
    "states/s": _middle("states_per_second", ",.0f"),
    "min to max": _spread,
    "of bound": _ratio("bound", ".1%"),
    "× h5py": _ratio("h5py", ".2f"),
    "CPU µs/state": _middle("cpu_us_per_state", ",.1f"),
    "first batch s": _middle("first_batch_seconds", ".2f"),
    "memory MB": _middle("memory_mb", ",.0f"),
    "bytes/state": _middle("bytes_per_state", ",.0f"),
    "mix": _middle("mix", ".2f"),
}


def rates(results: Results) -> dict[str, float]:
    """States a second of every entry that ran, the median of its repetitions."""
    return {
        name: median(run.states_per_second for run in runs)
        for name, runs in results.items()
        if not isinstance(runs, str)
    }


def table(quiet: Results, busy: Results) -> list[list[str]]:
    """Header and rows; with a busy core two columns more: states a second there, and how much less that is."""
    alone, beside = rates(quiet), rates(busy)
    rows = [["entry", *COLUMNS, *(["busy states/s", "loss"] if beside else [])]]
    for name, runs in quiet.items():
        if isinstance(runs, str):
            rows.append([name, runs, *[""] * (len(rows[0]) - 2)])
            continue
        row = [name, *(cell(runs, alone) for cell in COLUMNS.values())]
        if name in beside:
            row += [f"{beside[name]:,.0f}", f"{1 - beside[name] / alone[name]:.0%}"]
        rows.append(row)
    return rows


def elsewhere(results: Results) -> float:
    """Cores that other processes used on average while something was measured; 0 if nothing was."""
    every = [run.elsewhere for runs in results.values() if not isinstance(runs, str) for run in runs]
    return sum(every) / max(len(every), 1)


def show(rows: list[list[str]], about: dict[str, Any]) -> None:
    """Prints the table, what it depends on, and the table as Markdown."""
    shown = Table(*rows[0], title="states delivered, each compared with the recording")
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows[1:]:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(shown)  # into a file or a pipe: as wide as it is
    if (others := about["cores used by other processes"]) > 0.1:
        print(f"The machine was not quiet: other processes used {others} of its cores. Ratios are off, too.\n")
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
    print(markdown(rows[0], rows[1:]))
