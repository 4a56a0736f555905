"""What students are worth over several games."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pd_lightning.report.measures import Measure, choose_runs, draw_runs, limits, students_spread, wider
from pd_lightning.scores import geometric_mean


@dataclass(frozen=True)
class Summary:
    """A student over several games.

    Attributes:
        geometric: geometric mean of percent of teacher, and its 95% interval.
        interquartile: mean of the middle half of all runs' percentages above random, over games and seeds, and its 95%
            interval (Agarwal et al. 2021, arXiv 2108.13264); nan for fewer than four runs, of which none is left out.
            The interval knows of runs, episodes and teachers: in simulations of four games it covers 90 to 97% with
            three runs of each or more, and 78 to 90% with two, which hardly show how far runs lie apart; with three
            runs of one student of three games 77 to 89%.
        human: median human-normalised score, in percent.
    """

    geometric: tuple[float, float, float]
    interquartile: tuple[float, float, float]
    human: float


def summarise(measures: Sequence[Measure]) -> Summary:
    """Over games; nan where a game's percentage has no meaning.

    A run of a student of several games is drawn for all of them at once: what is good or bad about it, is so in all.
    """
    percents = np.array([measure.percent for measure in measures])
    common = np.random.default_rng([0, len(measures)])
    if all(measure.together for measure in measures):
        drawn = [draw_runs(len(measures[0].runs), common)] * len(measures)
    else:
        spread = students_spread(shared_degrees(measures), common)
        drawn = [draw_runs(len(measure.runs), common, spread) for measure in measures]
    chances = [np.random.default_rng([0, i]) for i in range(len(measures))]
    draws = np.stack([m.resampled(rng, weights) for m, rng, weights in zip(measures, chances, drawn, strict=True)])
    return Summary(
        (float(geometric_mean(percents)), *limits(geometric_mean(draws))),
        interquartile(measures),
        float(np.median([measure.human for measure in measures])),
    )


def interquartile(measures: Sequence[Measure]) -> tuple[float, float, float]:
    """See `Summary`: each game's runs and teacher are drawn anew by themselves, students of several games at once."""
    single = [each.above_random for measure in measures for each in measure.singles]
    if len(single) < 4 or np.isnan(single).any():  # scipy < 1.15 trims nan off
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng([0, len(measures)])
    chosen = [choose_runs(len(measure.runs), rng) for measure in measures]
    if all(measure.together for measure in measures):
        chosen = chosen[:1] * len(measures)
    pairs = (measure.above_random_drawn(rng, runs) for measure, runs in zip(measures, chosen, strict=True))
    drawn = [np.concatenate(each) for each in zip(*pairs, strict=True)]
    means = [stats.trim_mean(each, 0.25) + 0 * each.sum(0) for each in drawn]  # + 0: nan stays nan, trimmed off or not
    return (float(stats.trim_mean(single, 0.25)), *limits(wider(*means)))


def shared_degrees(measures: Sequence[Measure]) -> float:
    """Degrees of freedom of a geometric mean's spread over seeds (Welch and Satterthwaite), at least 1.

    How far runs of a game lie apart, as a share of its score, all games say together, as far as they lie apart alike:
    where one game makes most of the spread, its few runs alone say how much that is.
    """
    several = [np.array([values.mean() for values in each.runs]) for each in measures if len(each.runs) > 1]
    degrees = np.array([len(means) - 1 for means in several], float)
    shares = np.array([means.var(ddof=1) / len(means) / means.mean() ** 2 if means.any() else 0.0 for means in several])
    if not shares.any():
        return max(float(degrees.sum()), 1.0)
    return max(float(shares.sum() ** 2 / (shares**2 / degrees).sum()), 1.0)
