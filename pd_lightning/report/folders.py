"""Which folders are runs: those that were named, and those that lie below them."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pd_lightning.report.lineage import alike, attempts, is_run, joined_attempts, predecessor, settings_of
from pd_lightning.report.runs import Curves, ReportError, Run, joined, read_run


def runs_in(named: Sequence[Path], *, tests: bool = False) -> list[Run]:
    """The runs of these folders; what has no score of its own is left out with a note.

    Left out are folders of tests, unless they are asked for; runs that never played; and of runs with the same settings
    and seed all but the one that got farthest (of those the last by name), or if tests are asked for the tested one. A
    run that goes on from the checkpoint of another is one with it.

    Args:
        named: runs, folders with runs somewhere below, or patterns that no shell has expanded.
        tests: score runs that were tested by their tests' episodes.

    Raises:
        ReportError: a folder is no run and has none, or there is none.
    """
    runs, tested = [], []
    for folder in {path.resolve(): path for each in named for path in expanded(each)}.values():
        if folder.is_dir() and not (folder / "returns.csv").is_file():
            leave_out(folder, "has no returns.csv, nothing was played")
        elif is_test(folder) and tests:
            tested.append(folder)
        elif is_test(folder):
            leave_out(folder, "is of a test, whose run has a score of its own; --tests true takes the test's")
        else:
            runs.append(read_run(folder))
    fitted = trained(joined_attempts(runs))
    scored = scored_by_tests(fitted, tested)
    done = {run.folder.resolve() for run in scored}
    found = distinct([*(run for run in fitted if run.folder.resolve() not in done), *scored], first=scored)
    if not found:
        raise ReportError(
            f"{', '.join(map(str, named))}: no run that has played, once it had learned, and that the command line has "
            "configured; run `python train.py fit` first"
        )
    return found


def leave_out(folder: Path, reason: str) -> None:
    """Says so."""
    print(f"left out: {folder} {reason}", file=sys.stderr)


def expanded(named: Path) -> list[Path]:
    """What a word of the command line stands for: itself, unless it is no run and some lie below or match it."""
    if is_run(named):
        return [named]
    if named.is_dir():
        linked = [path for path in named.iterdir() if path.is_symlink() and path.is_dir()]  # searched as if named
        files = [path for folder in (named, *linked) for path in folder.rglob("returns.csv")]
        below = sorted({path.parent for path in files} - {named}, key=in_order)
        if not below:
            return [named]
        runs = [folder for folder in below if (folder / "config.yaml").is_file()]
        for folder in below:
            if folder not in runs:
                leave_out(folder, "has no config.yaml, which only the command line writes")
        return runs
    matching = sorted((Path(each) for each in glob.glob(str(named), recursive=True)), key=in_order)
    return [path for each in matching if each.is_dir() for path in expanded(each)] or [named]


def in_order(path: Path) -> list[str | int]:
    """Sorts version_10 after version_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def is_test(folder: Path) -> bool:
    """Whether a folder is of `python train.py test` or `validate`: a score of a run that has a folder of its own."""
    return "verbose" in settings_of(folder)  # an option of theirs alone


def trained(runs: Iterable[Run]) -> list[Run]:
    """Runs that were scored after they had learned something."""
    found = []
    for run in runs:
        if run.student.updates:
            found.append(run)
        else:
            leave_out(run.folder, "has played with untrained weights alone, and was stopped then")
    return found


def distinct(runs: Sequence[Run], first: Sequence[Run] = ()) -> list[Run]:
    """Runs of which no two have the same settings and seed: one would count twice.

    Args:
        runs: some of which may be alike. Without a seed none are.
        first: those of them that count rather than others.
    """
    best: dict[tuple, Run] = {}
    chosen = {id(run) for run in first}

    def key(run: Run) -> tuple:
        return alike(run), run.folder.resolve() if run.seed < 0 else None

    for run in sorted(runs, key=lambda run: (id(run) in chosen, run.student.updates, in_order(run.folder.resolve()))):
        if other := best.get(key(run)):
            leave_out(other.folder, f"has the same settings and seed as {run.folder}, which counts")
        best[key(run)] = run
    return [run for run in runs if best[key(run)] is run]


def scored_by_tests(runs: Sequence[Run], tests: Sequence[Path]) -> list[Run]:
    """Runs that were tested (`python train.py test`), with the scores of their tests instead of their own.

    Of several tests by the same rules the last counts; by other rules a run is there once more.

    Args:
        runs: those that count.
        tests: folders of tests, the newest last; of other runs too.

    Raises:
        ReportError: a folder holds what it should not.
    """
    tested: dict[tuple, Run] = {}
    known = {folder.resolve(): run for run in runs for folder in run.earlier}
    known |= {run.folder.resolve(): run for run in runs}  # which may be what another goes on from, too
    for folder in tests:
        test = read_run(folder)
        fitted = predecessor(folder, test, seeded=False)
        if fitted is None:
            leave_out(folder, "is of a test, whose run is not there")
            continue
        run = known.get(fitted.resolve()) or joined(attempts(read_run(fitted)))
        scored = with_scores(run, test)
        tested[run.folder.resolve(), scored.student.rules] = scored
    return list(tested.values())


def with_scores(run: Run, test: Run) -> Run:
    """A run whose last rollout is a test's: at the updates of the checkpoint, by the test's rules."""
    at, rules = test.student.updates, test.student.rules

    def merged(mine: Curves, tests: Curves) -> Curves:
        kept = {
            game: {update: points[update] for update in points if update < at and rules == run.student.rules}
            for game, points in mine.items()
        }
        return {game: kept.get(game, {}) | points for game, points in tests.items()}

    student = replace(run.student, updates=at, protocol=test.student.protocol, fire=test.student.fire)
    unnoted = not test.teacher and rules == run.student.rules  # by a test of before there was such a note
    if not unnoted:
        teacher = merged(run.teacher, test.teacher)
    elif not run.learning:
        teacher = run.teacher
    else:  # its tests note nothing: it is compared if it was scored then
        scored = {game: points for game, points in run.teacher.items() if at in points}
        teacher = {
            game: {update: points[update] for update in points if update <= at} for game, points in scored.items()
        }
    return replace(run, student=student, curve=merged(run.curve, test.curve), teacher=teacher)
