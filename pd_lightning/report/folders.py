"""Which folders are runs: those that were named, and those that lie below them."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from pd_lightning.report.runs import NEEDED, ReportError, Run, Student, joined, read_run

TASK = "begun.json"
"""In the folder of a reproduction's task: all runs below it are attempts at one."""


def runs_in(named: Sequence[Path]) -> list[Run]:
    """The runs of these folders; those that never played have no score, and are left out with a note.

    Args:
        named: runs, folders with runs somewhere below, or patterns that no shell has expanded.

    Raises:
        ReportError: a folder is no run and has none, two are the same run, or there is none.
    """
    runs = []
    for folder in {path.resolve(): path for each in named for path in expanded(each)}.values():
        if folder.is_dir() and not (folder / "returns.csv").is_file():
            print(f"left out: {folder} has no returns.csv, nothing was played", file=sys.stderr)
        elif is_test(folder):
            print(f"left out: {folder} is of a test, whose run has a folder of its own", file=sys.stderr)
        else:
            runs.append(read_run(folder))
    if not runs:
        raise ReportError(f"{', '.join(map(str, named))}: no run that has played; run `python train.py fit` first")
    runs = whole(runs)
    check_distinct(runs)
    return runs


def expanded(named: Path) -> list[Path]:
    """What a word of the command line stands for: itself, unless it is no run and some lie below or match it."""
    if all((named / name).is_file() for name in NEEDED):
        return [named]
    if named.is_dir():
        below = {path.parent for path in named.rglob("returns.csv") if (path.parent / "config.yaml").is_file()}
        return sorted(below, key=in_order) or [named]
    matching = sorted((Path(each) for each in glob.glob(str(named), recursive=True)), key=in_order)
    return [path for each in matching if each.is_dir() for path in expanded(each)] or [named]


def in_order(path: Path) -> list[str | int]:
    """Sorts version_10 after version_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def is_test(folder: Path) -> bool:
    """Whether a folder is of `python train.py test` or `validate`: a score of a run that has a folder of its own."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and "verbose" in config  # an option of theirs alone


def whole(runs: Iterable[Run]) -> list[Run]:
    """Runs, those that a reproduction went on with after a kill joined with what was played before."""
    attempts: dict[Path, list[Run]] = {}
    for run in runs:
        task = run.folder.parent.parent
        attempts.setdefault(task if (task / TASK).is_file() else run.folder, []).append(run)
    return [
        joined(sorted(each, key=lambda run: (run.folder / "returns.csv").stat().st_mtime)) for each in attempts.values()
    ]


def check_distinct(runs: Iterable[Run]) -> None:
    """Raises a ReportError if two runs have the same settings and seed: one would count twice."""
    seen: dict[tuple[Student, int], Path] = {}
    for run in runs:
        other = seen.setdefault((run.student, run.seed), run.folder)
        if other != run.folder:
            raise ReportError(
                f"{run.folder}: has the same settings and seed as {other}; a run counts once, so leave one of them out"
            )
