"""What a group of runs is worth, with intervals that know of seeds and of episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pd_lightning.scores import SCORES, normalised, percent_of_teacher

RESAMPLES = 10_000
FEWEST = 5
"""Episodes of a run, or of a teacher, that an interval asks for: fewer, drawn anew, hardly differ."""


@dataclass(frozen=True)
class Measure:
    """A game's runs of one student, and its teacher.

    Attributes:
        game: the game.
        runs: returns of each run's episodes, float64 [n] each, in the order of the seeds.
        teacher: returns of the teacher's episodes; empty if there are none by the same rules.
        together: whether each run is one student of this game and others.
        own: where each run has a teacher of its own, which learned with it: the returns of each, else nothing.
        folders: of each run, as they are shown; nothing if nobody asks.
    """

    game: str
    runs: tuple[np.ndarray, ...]
    teacher: np.ndarray
    together: bool = False
    own: tuple[np.ndarray, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """Mean over runs of their mean returns."""
        return float(np.mean([values.mean() for values in self.runs]))

    @property
    def percent(self) -> float:
        """Of the teacher's mean return, as in the paper; nan where that is unknown or not positive."""
        return percent_of_teacher(self.score, self._teacher_mean)

    @property
    def above_random(self) -> float:
        """(score - random) / (teacher - random), in percent: also of games whose scores do not begin at zero."""
        if self.game not in SCORES or not len(self.teacher):
            return math.nan
        random = SCORES[self.game].random
        gap = self._teacher_mean - random
        return 100 * (self.score - random) / gap if gap > 0 else math.nan

    @property
    def human(self) -> float:
        """Human-normalised score (Wang et al.), in percent; nan where no human score is known."""
        return 100 * normalised(self.score, self.game) if self.game in SCORES else math.nan

    @property
    def _teacher_mean(self) -> float:
        return float(self.teacher.mean()) if len(self.teacher) else math.nan

    def resampled(self, rng: np.random.Generator, chosen: np.ndarray | None = None) -> np.ndarray:
        """Percentages of the teacher, float64 [RESAMPLES], of runs, their episodes and the teacher's drawn anew.

        Runs are drawn first, then episodes within them: episodes of one run share its weights. Of a single run only
        its episodes can be drawn, and the interval says nothing about other seeds. All are nan where a run or a
        teacher has fewer than `FEWEST` episodes.

        Args:
            rng: what is drawn by.
            chosen: the runs that were drawn, int64 [runs, RESAMPLES], if they are drawn for several games together.
        """
        if min(map(len, (*self.runs, *(self.own or (self.teacher,))))) < FEWEST:
            return np.full(RESAMPLES, np.nan)
        chosen = draw_runs(len(self.runs), rng) if chosen is None else chosen
        scores = _scores(self.runs, chosen, rng)
        teacher = _scores(self.own, chosen, rng) if self.own else _means(self.teacher, rng, 1)[0]
        return np.where(teacher > 0, 100 * scores / np.where(teacher > 0, teacher, 1), np.nan)


def draw_runs(count: int, rng: np.random.Generator) -> np.ndarray:
    """Which of `count` runs is in which place of each resample, int64 [count, RESAMPLES]."""
    return rng.integers(count, size=(count, RESAMPLES))


def _scores(runs: Sequence[np.ndarray], chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means over chosen runs of their episodes drawn anew, float64 [RESAMPLES]."""
    means = np.stack([_means(values, rng, len(runs)) for values in runs])  # [run, draw, resample]
    return means[chosen, np.arange(len(runs))[:, None], np.arange(RESAMPLES)].mean(0)


def _means(values: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Means of episodes drawn anew, float64 [draws, RESAMPLES]."""
    return values[rng.integers(len(values), size=(draws, RESAMPLES, len(values)))].mean(2)


def limits(resampled: np.ndarray) -> tuple[float, float]:
    """The 95% interval between the percentiles of what was resampled; nan where some of it has no meaning."""
    if not np.isfinite(resampled).all():
        return math.nan, math.nan
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Summary:
    """A student over several games.

    Attributes:
        geometric: geometric mean of percent of teacher, and its 95% interval.
        interquartile: mean of the middle half of all runs' percentages above random, over games and seeds.
        human: median human-normalised score, in percent.
    """

    geometric: tuple[float, float, float]
    interquartile: float
    human: float


def summarise(measures: Sequence[Measure], seed: int = 0) -> Summary:
    """Over games; nan where a game's percentage has no meaning.

    A run of a student of several games is drawn for all of them at once: what is good or bad about it, is so in all.
    """
    percents = np.array([measure.percent for measure in measures])
    chosen = None
    if all(measure.together for measure in measures):
        chosen = draw_runs(len(measures[0].runs), np.random.default_rng([seed, len(measures)]))
    chances = [np.random.default_rng([seed, i]) for i in range(len(measures))]
    draws = np.stack([measure.resampled(rng, chosen) for measure, rng in zip(measures, chances, strict=True)])
    single = [
        Measure(measure.game, (values,), measure.teacher).above_random
        for measure in measures
        for values in measure.runs
    ]
    return Summary(
        (_geometric(percents[:, None])[0], *limits(_geometric(draws))),
        math.nan if np.isnan(single).any() else float(stats.trim_mean(single, 0.25)),  # scipy < 1.15 trims nan off
        float(np.median([measure.human for measure in measures])),
    )


def _geometric(percents: np.ndarray) -> np.ndarray:
    """Over the first axis; nan where one is not positive."""
    positive = np.where(percents > 0, percents, np.nan)
    return np.exp(np.log(positive).mean(0))
