"""The paper's tables, from measures, in Markdown."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from pd_lightning.atari import action_meanings
from pd_lightning.networks import SIZES, QNetwork, parameter_count
from pd_lightning.report.cells import between, cell, markdown, percent, with_interval
from pd_lightning.report.details import detail
from pd_lightning.report.groups import Measures
from pd_lightning.report.labels import about, compared, shared_settings
from pd_lightning.report.measures import FEWEST, RESAMPLES, Measure
from pd_lightning.report.runs import Student
from pd_lightning.report.summaries import Summary, summarise

Key = Callable[[Student], object]

NOTES = f"""\
Score: mean over runs of the mean return of their last rollout, or test. Of teacher: 100 x score / mean return of the
teacher's recorded episodes (a live one's: those of its score), as in the paper; without a meaning where the score is
negative or the teacher's not positive. Above random: (score - random) / (teacher - random), which also holds where
scores do not begin at zero (Pong). Human-normalised: by the scores of Wang et al. (2016). Intervals: 95%, bootstrap
over runs and the teacher's episodes ({RESAMPLES:,} resamples), as wide as Student's t for few of them, and at least as
wide as the runs' episodes say; those of a single run are of its episodes and say nothing about other seeds. There is
none (-) where a run or the teacher has fewer than {FEWEST} episodes, which say too little about their spread, or where
a percentage's would reach below zero. The interquartile mean leaves out a quarter of the runs at either end, which
may be all of one game; its interval is the wider one of runs drawn with replacement and of episodes drawn anew, the
teacher's too, which is too narrow for two runs of a game, or three of a student of several. A dash: not known, or
without a meaning. Runs differ in the seeds of their weights, and of their data where report.csv says so. Runs with one
`--rollouts.seed` are scored in the same episodes, and intervals do not know that (`reproduce` gives each seed of a run
its own)."""


def comparison(students: Mapping[str, Mapping[str, Measure]]) -> str:
    """Games as rows, students as columns: score, and percent of the teacher; below, what sums them up.

    Where students had different teachers, the means of all are shown.

    Args:
        students: what a column is called, to its measures.
    """
    games = sorted({game for column in students.values() for game in column})
    rows = []
    for game in games:
        teachers = [column[game].teacher_mean for column in students.values() if game in column]
        means = dict.fromkeys(f"{mean:.1f}" for mean in teachers if not math.isnan(mean))
        rows.append([game, " / ".join(means) or "-", *(cell(column.get(game)) for column in students.values())])
    sums: list[Summary | None] = [
        summarise([column[game] for game in games]) if set(games) <= set(column) else None
        for column in students.values()
    ]
    if len(games) > 1:  # a mean over one game is that game
        for name, show in (
            ("geometric mean of %", lambda s: with_interval(*s.geometric)),
            (
                "interquartile mean above random",
                lambda s: (
                    "-"
                    if math.isnan(s.interquartile[0])
                    else f"{percent(s.interquartile[0])} {between(*s.interquartile[1:])}"
                ),
            ),
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
