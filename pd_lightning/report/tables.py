"""The paper's tables, from measures, in Markdown."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pd_lightning.atari import action_meanings
from pd_lightning.networks import SIZES, QNetwork, parameter_count
from pd_lightning.report.labels import about, always_said, compared, shared_settings, told_apart
from pd_lightning.report.measures import FEWEST, RESAMPLES, Measure, Summary, limits, summarise
from pd_lightning.report.runs import Run, Student
from pd_lightning.scores import SCORES

Measures = dict[Student, dict[str, Measure]]
"""Every student with its games, both in the order in which they are shown."""
Key = Callable[[Student], object]

NOTES = f"""\
Score: mean over runs of the mean return of their last rollout. Of teacher: 100 x score / mean return of the teacher's
recorded episodes (a live one's: those of its score), as in the paper; without a meaning where the score is negative or
the teacher's not positive. Above random: (score - random) / (teacher - random), which also holds where scores do not
begin at zero (Pong). Human-normalised: by the scores of Wang et al. (2016). Intervals: 95%, bootstrap over runs and
the teacher's episodes ({RESAMPLES:,} resamples), as wide as Student's t for few runs, and at least as wide as their
episodes say; those of a single run say nothing about other seeds. There is none (-) where a run or the teacher has
fewer than {FEWEST} episodes, which say too little about their spread, or where it would reach below zero. A dash: not
known, or without a meaning."""


def order_of(student: Student) -> tuple:
    """Sizes from the largest, losses as in the paper, then the rest."""
    sizes = list(SIZES)
    size = sizes.index(student.size) if student.size in sizes else len(sizes)
    loss = next((n for n, name in enumerate(("mse", "nll", "kl")) if student.loss.startswith(name)), 3)
    how = (student.loss, student.acts, student.settings, student.updates)
    return (student.protocol, len(student.games), size, loss, *how)


def measure(runs: Iterable[Run], teachers: Callable[[Student, str], np.ndarray]) -> Measures:
    """Groups runs that differ in the seed alone.

    Args:
        runs: in any order.
        teachers: returns of the recorded episodes of a game's teacher by the rules of a student's rollouts.
    """
    groups: dict[Student, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        groups.setdefault(run.student, []).append(run)
    return {
        student: {
            game: Measure(
                game,
                tuple(run.returns[game] for run in groups[student]),
                teachers(student, game),
                together=len(student.games) > 1,
                own=learning_teachers(groups[student], game),
                folders=tuple(run.folders for run in groups[student]),
            )
            for game in student.games
        }
        for student in sorted(groups, key=order_of)
    }


def learning_teachers(runs: Iterable[Run], game: str) -> tuple[np.ndarray, ...]:
    """Last returns of each run's own teacher, if those learned with their students."""
    points = [run.teacher.get(game, {}) for run in runs]
    return tuple(each[max(each)] for each in points) if all(len(each) > 1 for each in points) else ()


def percent(value: float) -> str:
    """A percentage, or a dash."""
    return "-" if math.isnan(value) else f"{value:.1f}%"


def with_interval(value: float, low: float, high: float) -> str:
    """A percentage and its interval: a dash if that is unknown, or begins where percentages have no meaning."""
    if math.isnan(value):
        return "-"
    return f"{percent(value)} ({low:.1f} to {high:.1f})" if low >= 0 else f"{percent(value)} (-)"


def of_teacher(found: Measure) -> float:
    """Percent of the teacher; nan also where the score is negative, and the percentage without a meaning."""
    return math.nan if found.score < 0 else found.percent


def cell(found: Measure | None) -> str:
    """Score and percent of the teacher; above random, where only that has a meaning."""
    if found is None:
        return "-"
    share, below_zero = of_teacher(found), found.game in SCORES and SCORES[found.game].random < 0
    instead = below_zero and math.isnan(share) and not math.isnan(found.above_random)
    above = f" ({percent(found.above_random)} above random)" if instead else ""
    return f"{found.score:.1f}, {percent(share)}{above}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is text and the others numbers."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def detail(measures: Measures) -> str:
    """Every student in every game."""
    rows, shared = [], shared_settings(measures)
    every = [(student, found) for student, games in measures.items() for found in games.values()]
    for student, found in every:
        low, high = limits(found.resampled(np.random.default_rng(0)))
        episodes = "/".join(sorted({str(len(values)) for values in found.runs}))
        each = ", ".join(f"{values.mean():.1f}" for values in found.runs)
        rows.append([
            found.game, student.size, told_apart(student, shared), f"{student.updates:,}",
            f"{len(found.runs)} x {episodes}", each, f"{found.score:.1f}",
            f"{found.teacher.mean():.1f}" if len(found.teacher) else "-",
            with_interval(of_teacher(found), low, high), percent(found.above_random), percent(found.human),
        ])  # fmt: skip
    head = ["game", "size", "loss and settings", "updates", "runs x episodes", "return of each run", "score", "teacher",
            "of teacher (95%)", "above random", "human-normalised"]  # fmt: skip
    if len(rows) > 1:
        head, rows = ["row", *head], [[str(number), *row] for number, row in enumerate(rows, 1)]
    said = ", ".join(filter(always_said, shared))
    return (f"All of them: {said}.\n\n" if said else "") + markdown(head, rows) + folders([found for _, found in every])


def folders(rows: Sequence[Measure]) -> str:
    """Which runs each row is of, if there are several rows."""
    if len(rows) < 2:
        return ""
    lines = []
    for number, found in enumerate(rows, 1):
        each = ", ".join(f"`{folder}`" for run in found.folders for folder in run.split(";"))
        lines.append(f"{number}. {found.game}: {each}")
    return "\n\nThe folders of each row's runs:\n\n" + "\n".join(lines)


def comparison(students: Mapping[str, Mapping[str, Measure]]) -> str:
    """Games as rows, students as columns: score, and percent of the teacher; below, what sums them up.

    Where students had different teachers, the means of all are shown.

    Args:
        students: what a column is called, to its measures.
    """
    games = sorted({game for column in students.values() for game in column})
    rows = []
    for game in games:
        teachers = [column[game].teacher for column in students.values() if game in column]
        means = dict.fromkeys(f"{teacher.mean():.1f}" for teacher in teachers if len(teacher))
        rows.append([game, " / ".join(means) or "-", *(cell(column.get(game)) for column in students.values())])
    sums: list[Summary | None] = [
        summarise([column[game] for game in games]) if set(games) <= set(column) else None
        for column in students.values()
    ]
    if len(games) > 1:  # a mean over one game is that game
        for name, show in (
            ("geometric mean of %", lambda s: with_interval(*s.geometric)),
            ("interquartile mean above random", lambda s: percent(s.interquartile)),
            ("median human-normalised", lambda s: percent(s.human)),
        ):
            rows.append([name, "", *("-" if each is None else show(each) for each in sums)])
    return markdown(["game", "teacher", *students], rows)


def columns(measures: Measures, label: Key, same: Callable[[Student], Student]) -> list[tuple]:
    """Two or more students of single games that differ in one thing: (student, {label: {game: measure}}) each.

    Args:
        measures: all.
        label: in what they differ.
        same: a student without that, and without its game.
    """
    groups: dict[Student, dict[str, dict[str, Measure]]] = {}
    for student, games in measures.items():
        if len(student.games) == 1:
            column = groups.setdefault(replace(same(student), games=()), {}).setdefault(str(label(student)), {})
            column.update(games)
    return [(student, group) for student, group in groups.items() if len(group) > 1]


def report(measures: Measures) -> str:
    """All tables that these students fill, and all students in detail."""
    parts, shared = [], shared_settings(measures)
    for student, group in columns(measures, lambda s: s.loss, lambda s: replace(s, loss="")):
        parts.append(f"## Losses\n\n{about(student, shared, 'loss')}\n\n{comparison(group)}")
    for student, group in columns(measures, lambda s: s.size, lambda s: replace(s, size="")):
        sized = {f"{size} ({share(size, group[size])})": column for size, column in group.items()}
        parts.append(f"## Compression\n\n{about(student, shared, 'size')}\n\n{comparison(sized)}")
    for student, group in columns(measures, lambda s: s.acts or "recorded", lambda s: replace(s, acts="")):
        parts.append(f"## Who acts\n\n{about(student, shared, 'acts')}\n\n{comparison(group)}")
    several = {student: games for student, games in measures.items() if len(student.games) > 1}
    for games in sorted({student.games for student in several}, key=lambda names: (len(names), names)):
        common, names = compared([student for student in several if student.games == games], shared)
        table = comparison({name: several[student] for student, name in names.items()})
        parts.append("\n\n".join(filter(None, [f"## {len(games)} games in one student", common, table])))
    parts.append(f"## All runs\n\n{detail(measures)}\n\n{NOTES}")
    return "\n\n".join(parts) + "\n"


@functools.cache  # a network is made to count them
def parameters_of(game: str, size: str) -> int:
    """Of a student of that game alone."""
    return parameter_count(QNetwork({game: len(action_meanings(game))}, size))


def share(size: str, games: Mapping[str, Measure]) -> str:
    """A size's parameters as a share of the teacher's, for these games: it depends a little on their actions."""
    if size not in SIZES:
        return "size unknown"
    shares = [parameters_of(game, size) / parameters_of(game, "dqn") for game in games]
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{low:.1f}%" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}%"
