"""Players take turns, each measurement in a process of its own: ratios within one run are what counts."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from benchmarks import players
from benchmarks.processes import in_fresh_process, use_cores

MISSING = "not installed: pip install -e '.[benchmarks]'"


def compare(
    entries: dict[str, tuple[players.Player, int]], repetitions: int, cores: int, game: str, parallel: int, root: str
) -> dict[str, list[float] | str]:
    """Steps a second of each in each turn, or why there are none.

    Args:
        entries: name to what is measured, and how many steps of it.
        repetitions: turns of each.
        cores: that they may use.
        game: that is played.
        parallel: copies of it side by side.
        root: folder of the datasets, with the game's teacher.
    """
    use = use_cores(cores)
    found: dict[str, list[float] | str] = {name: [] for name in entries}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        for name in track([*entries] * repetitions, "playing", console=Console(stderr=True)):
            rates, (player, steps) = found[name], entries[name]
            if isinstance(rates, list):
                try:
                    rates.append(in_fresh_process(log, players.measure, player, use, game, parallel, steps, root))
                except ImportError as error:
                    found[name] = f"{error.name} is {MISSING}"
    return found


def show(title: str, found: dict[str, list[float] | str], against: str, output: str | None) -> None:
    """Prints the medians, the spread, and what each is of one of them."""
    table = Table(title=title)
    for name in ("", "steps/s", "min to max", f"of {against}"):
        table.add_column(name, justify="left" if not name else "right")
    reference = found[against]
    whole = median(reference) if isinstance(reference, list) else None
    for name, rates in found.items():
        if isinstance(rates, str):
            table.add_row(name, escape(rates), "", "")
            continue
        ratio = f"{median(rates) / whole:.2f}" if whole else "-"
        table.add_row(name, f"{median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}", ratio)
    Console(width=None if os.isatty(1) else 120).print(table)
    if output:
        Path(output).write_text(json.dumps(found, indent=2) + "\n")
