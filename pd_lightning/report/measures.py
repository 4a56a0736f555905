"""What a group of runs is worth, with intervals that know of seeds and of episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

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
        own: where each run has a teacher of its own, which learned with it or was recorded for it: the returns of each,
            else nothing.
        seeds: of each run's weights and of its data; nothing if nobody asks.
        folders: of each run, as they are shown; nothing if nobody asks.
        temperatures: of each run, nan where there is none; nothing if nobody asks.
    """

    game: str
    runs: tuple[np.ndarray, ...]
    teacher: np.ndarray
    together: bool = False
    own: tuple[np.ndarray, ...] = ()
    seeds: tuple[tuple[int, int], ...] = ()
    folders: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = ()

    @property
    def singles(self) -> tuple[Measure, ...]:
        """Each run by itself."""
        teachers = self.own or (self.teacher,) * len(self.runs)
        return tuple(Measure(self.game, (values,), theirs) for values, theirs in zip(self.runs, teachers, strict=True))

    @property
    def score(self) -> float:
        """Mean over runs of their mean returns."""
        return float(np.mean([values.mean() for values in self.runs]))

    @property
    def percent(self) -> float:
        """Of the teacher's mean return, as in the paper; nan where that is unknown or not positive."""
        return percent_of_teacher(self.score, self.teacher_mean)

    @property
    def above_random(self) -> float:
        """(score - random) / (teacher - random), in percent: also of games whose scores do not begin at zero."""
        return float(self.above(self.score))

    def above(self, scores: ArrayLike, teachers: ArrayLike | None = None) -> np.ndarray:
        """What scores are above random, as `above_random`, of what teachers' means are (default: of the teacher's)."""
        gaps = np.asarray(self.teacher_mean if teachers is None else teachers) - self._random
        return 100 * (np.asarray(scores) - self._random) / np.where(gaps > 0, gaps, math.nan)

    @property
    def _random(self) -> float:
        """Random play's score; nan where it is not known."""
        return SCORES[self.game].random if self.game in SCORES else math.nan

    @property
    def human(self) -> float:
        """Human-normalised score (Wang et al.), in percent; nan where no human score is known."""
        return 100 * normalised(self.score, self.game)

    @cached_property
    def score_interval(self) -> tuple[float, float]:
        """95%, of the score; of a single run, of its episodes alone."""
        return limits(self.score_resampled(np.random.default_rng(0)))

    @cached_property
    def percent_interval(self) -> tuple[float, float]:
        """95%, of `percent`."""
        return limits(self.resampled(np.random.default_rng(0)))

    @property
    def teacher_mean(self) -> float:
        """Mean return of the teacher's episodes, over runs' own teachers each alike; nan where there are none."""
        if self.own:
            return float(np.mean([values.mean() for values in self.own]))
        return float(self.teacher.mean()) if len(self.teacher) else math.nan

    @property
    def _has_too_few(self) -> bool:
        """Whether a run or a teacher has fewer episodes than an interval asks for."""
        return min(map(len, (*self.runs, *(self.own or (self.teacher,))))) < FEWEST

    def resampled(self, rng: np.random.Generator, drawn: np.ndarray | None = None) -> np.ndarray:
        """Percentages of the teacher, float64 [RESAMPLES], of runs and of the teacher's episodes drawn anew.

        Of a single run only its episodes can be drawn, and the interval says nothing about other seeds. All are nan
        where a run or a teacher has fewer than `FEWEST` episodes.

        Args:
            rng: what is drawn by.
            drawn: weights of the runs as of `draw_runs`, if they are drawn for several games together.
        """
        if self._has_too_few:
            return np.full(RESAMPLES, np.nan)
        if drawn is None:
            drawn = draw_runs(len(self.runs), rng)
        if self.own:
            return self._resampled_together(drawn, rng)
        scores, means = _scores(self.runs, drawn, rng), _means([self.teacher], rng)
        return np.where(means > 0, 100 * scores / np.where(means > 0, means, 1), np.nan)

    def score_resampled(self, rng: np.random.Generator) -> np.ndarray:
        """Scores, float64 [RESAMPLES], of runs drawn anew; of a single run, of its episodes. See `resampled`."""
        if min(map(len, self.runs)) < FEWEST:
            return np.full(RESAMPLES, np.nan)
        return _scores(self.runs, draw_runs(len(self.runs), rng), rng)

    @cached_property
    def above_random_interval(self) -> tuple[float, float]:
        """95%, of `above_random`: runs as in `score_interval`, and the teacher's episodes drawn anew too."""
        if self._has_too_few:
            return math.nan, math.nan
        rng = np.random.default_rng(0)
        if self.own:
            return limits(self._resampled_together(draw_runs(len(self.runs), rng), rng, self._random))
        return limits(self.above(self.score_resampled(rng), _means([self.teacher], rng)))

    def above_random_drawn(self, rng: np.random.Generator, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`above_random` of runs drawn with replacement, and of the runs that there are with their episodes drawn anew.

        The teacher's episodes are drawn anew in both. Float64 [runs, RESAMPLES] each, all nan where there are fewer
        than `FEWEST` episodes.

        Args:
            rng: what episodes are drawn by.
            chosen: the runs that were drawn, as of `choose_runs`.
        """
        if self._has_too_few:
            return np.full(chosen.shape, np.nan), np.full(chosen.shape, np.nan)
        scores, theirs = _drawn(self.runs, rng), _drawn_once(self.own or (self.teacher,), rng)
        means = np.array([[values.mean()] for values in self.runs])
        return np.take_along_axis(self.above(means, theirs), chosen, 0), self.above(scores, theirs)

    def _resampled_together(self, drawn: np.ndarray, rng: np.random.Generator, zero: float = 0.0) -> np.ndarray:
        """The same of runs each with its own teacher, to first order: a ratio whose two sides are drawn together.

        Args:
            drawn: weights of the runs.
            rng: what is drawn by.
            zero: the score that both sides are counted from.
        """
        scale = self.teacher_mean - zero
        share = 100 * (self.score - zero) / scale if scale > 0 else math.nan

        def ratio(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            return share + (100 * (mine - zero) - share * (theirs - zero)) / scale

        mine, theirs = (np.array([values.mean() for values in each]) for each in (self.runs, self.own))
        between = ratio(mine @ drawn, theirs @ drawn)
        return wider(between, ratio(_means(self.runs, rng), _drawn_once(self.own, rng).mean(0)))


def choose_runs(count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of `count` runs drawn with replacement, int64 [count, RESAMPLES]."""
    return rng.integers(count, size=(count, RESAMPLES))


def draw_runs(count: int, rng: np.random.Generator, spread: np.ndarray | None = None) -> np.ndarray:
    """Weights of `count` runs in the mean of each resample, float64 [count, RESAMPLES]; they sum to 1.

    As often as a run was drawn, with replacement. Of a few runs such means are too close together: by the factor
    (n - 1) / n in their variance, and because the few need not show how far runs lie apart. So they are spread as
    Student's t is.

    Args:
        count: n.
        rng: what is drawn by.
        spread: as of `students_spread`, if several games share it.
    """
    weights = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).T / count
    if count == 1:
        return weights
    spread = students_spread(count - 1, rng) if spread is None else spread
    return 1 / count + (weights - 1 / count) * spread * math.sqrt(count / (count - 1))


def students_spread(degrees: float, rng: np.random.Generator) -> np.ndarray:
    """What makes a normal variable one of Student's t with so many degrees of freedom, float64 [RESAMPLES]."""
    return np.sqrt(degrees / rng.chisquare(degrees, RESAMPLES))


def _scores(runs: Sequence[np.ndarray], drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means over runs as they were drawn, float64 [RESAMPLES], or over their episodes drawn anew if those differ more.

    A run's mean has the chance of its episodes in it, so the first would do; but few runs may be alike by chance.
    """
    return wider(np.array([values.mean() for values in runs]) @ drawn, _means(runs, rng))


def wider(*resampled: np.ndarray) -> np.ndarray:
    """What has the wider interval, of what has a meaning."""

    def width(values: np.ndarray) -> float:
        finite = values[np.isfinite(values)]
        return float(np.ptp(np.percentile(finite, [2.5, 97.5]))) if finite.size else math.inf

    return max(resampled, key=width)


def _means(runs: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Means over runs of means of their episodes drawn anew, spread as Student's t is, float64 [RESAMPLES]."""
    return _drawn(runs, rng).mean(0)


def _drawn(runs: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Means of each run's episodes drawn anew, spread as Student's t is, float64 [runs, RESAMPLES]."""

    def of_one(values: np.ndarray) -> np.ndarray:
        count, mean = len(values), values.mean()
        drawn = values[rng.integers(count, size=(RESAMPLES, count))].mean(1)
        return mean + (drawn - mean) * students_spread(count - 1, rng) * math.sqrt(count / (count - 1))

    return np.stack([of_one(values) for values in runs])


def _drawn_once(teachers: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """As `_drawn`, of runs' teachers; episodes that several runs were compared with are drawn once, for all of them."""
    distinct = {values.tobytes(): values for values in teachers}
    drawn = dict(zip(distinct, _drawn(list(distinct.values()), rng), strict=True))
    return np.stack([drawn[values.tobytes()] for values in teachers])


def limits(resampled: np.ndarray) -> tuple[float, float]:
    """The 95% interval between the percentiles of what was resampled; nan if it would reach what has no meaning."""
    low, high = np.percentile(np.where(np.isfinite(resampled), resampled, -math.inf), [2.5, 97.5], method="lower")
    return (float(low), float(high)) if math.isfinite(low) else (math.nan, math.nan)
