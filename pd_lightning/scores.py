"""What a score is worth: reference scores per game, the percentage of a teacher, and the interval of a mean return.

Every score here is a mean of unclipped returns over whole episodes. Scores compare only where the starts, the limit of
frames and the share of random actions are the same, so each set is named after its protocol and stays a column of its
own:

==================  =================  ==================  ==============  =========================================
column              starts             episode ends after  random actions  source
==================  =================  ==================  ==============  =========================================
`random`            up to 30 no-ops    see below           all of them     Mnih et al., Nature 2015
`human`             up to 30 no-ops    108,000 frames      none            Wang et al., ICML 2016 (arXiv 1511.06581)
`dqn`               up to 30 no-ops    18,000 frames       5%              Mnih et al., Nature 2015
`dqn_human_starts`  states of a human  108,000 frames      unconfirmed     Nair et al., 2015 (arXiv 1507.04296)
==================  =================  ==================  ==============  =========================================

- `random` and `human` are one set, as google-deepmind/dqn_zoo has it (`dqn_zoo/atari_data.py`), which says 108,000
  frames for both. `human` is the later of two sets. The Nature paper's own differs a lot (Enduro 309.6, Ms. Pacman
  15693.4, Pong 9.3, Seaquest 20181.8), so say "human (Wang et al.)" wherever such a figure is printed.
- `dqn` was compared with the copy of the Nature paper's table in pfnet/pfrl
  (`examples/atari/reproduction/dqn/README.md`);
  `dqn_human_starts`, and all the others again, with the tables in seungjaeryanlee/endtoend.ai.
- `dqn_human_starts` most likely describes the distillation paper's own teachers. Its starts were never released, so
  nothing that plays here compares with it: it is the paper's column to show, not a reference to normalise with.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Scores(NamedTuple):
    """Published scores in one game; the module's docstring says under which protocol each was measured."""

    random: float
    """Actions drawn uniformly; no-op starts."""
    human: float
    """A professional tester of games (the set of Wang et al.); no-op starts."""
    dqn: float = math.nan
    """The DQN of the Nature paper; no-op starts; nan where it has none."""
    dqn_human_starts: float = math.nan
    """The DQN of Nair et al.; human starts; noted here for the distillation paper's games alone."""


SCORES: dict[str, Scores] = {
    "alien": Scores(227.8, 7127.7, 3069.0),
    "amidar": Scores(5.8, 1719.5, 739.5),
    "assault": Scores(222.4, 742.0, 3359.0),
    "asterix": Scores(210.0, 8503.3, 6012.0),
    "asteroids": Scores(719.1, 47388.7, 1629.0),
    "atlantis": Scores(12850.0, 29028.1, 85641.0),
    "bank_heist": Scores(14.2, 753.1, 429.7),
    "battle_zone": Scores(2360.0, 37187.5, 26300.0),
    "beam_rider": Scores(363.9, 16926.5, 6846.0, 8672.4),
    "berzerk": Scores(123.7, 2630.4),
    "bowling": Scores(23.1, 160.7, 42.4),
    "boxing": Scores(0.1, 12.1, 71.8),
    "breakout": Scores(1.7, 30.5, 401.2, 303.9),
    "centipede": Scores(2090.9, 12017.0, 8309.0),
    "chopper_command": Scores(811.0, 7387.8, 6687.0),
    "crazy_climber": Scores(10780.5, 35829.4, 114103.0),
    "defender": Scores(2874.5, 18688.9),
    "demon_attack": Scores(152.1, 1971.0, 9711.0),
    "double_dunk": Scores(-18.6, -16.4, -18.1),
    "enduro": Scores(0.0, 860.5, 301.8, 475.6),
    "fishing_derby": Scores(-91.7, -38.7, -0.8),
    "freeway": Scores(0.0, 29.6, 30.3, 25.8),
    "frostbite": Scores(65.2, 4334.7, 328.3),
    "gopher": Scores(257.6, 2412.5, 8520.0),
    "gravitar": Scores(173.0, 3351.4, 306.7),
    "hero": Scores(1027.0, 30826.4, 19950.0),
    "ice_hockey": Scores(-11.2, 0.9, -1.6),
    "jamesbond": Scores(29.0, 302.8, 576.7),
    "kangaroo": Scores(52.0, 3035.0, 6740.0),
    "krull": Scores(1598.0, 2665.5, 3805.0),
    "kung_fu_master": Scores(258.5, 22736.3, 23270.0),
    "montezuma_revenge": Scores(0.0, 4753.3, 0.0),
    "ms_pacman": Scores(307.3, 6951.6, 2311.0, 763.5),
    "name_this_game": Scores(2292.3, 8049.0, 7257.0),
    "phoenix": Scores(761.4, 7242.6),
    "pitfall": Scores(-229.4, 6463.7),
    "pong": Scores(-20.7, 14.6, 18.9, 16.2),
    "private_eye": Scores(24.9, 69571.3, 1788.0),
    "qbert": Scores(163.9, 13455.0, 10596.0, 4589.8),
    "riverraid": Scores(1338.5, 17118.0, 8316.0, 4065.3),
    "road_runner": Scores(11.5, 7845.0, 18257.0),
    "robotank": Scores(2.2, 11.9, 51.6),
    "seaquest": Scores(68.4, 42054.7, 5286.0, 2793.9),
    "skiing": Scores(-17098.1, -4336.9),
    "solaris": Scores(1236.3, 12326.7),
    "space_invaders": Scores(148.0, 1668.7, 1976.0, 1449.7),
    "star_gunner": Scores(664.0, 10250.0, 57997.0),
    "surround": Scores(-10.0, 6.5),
    "tennis": Scores(-23.8, -8.3, -2.5),
    "time_pilot": Scores(3568.0, 5229.2, 5947.0),
    "tutankham": Scores(11.4, 167.6, 186.7),
    "up_n_down": Scores(533.4, 11693.2, 8456.0),
    "venture": Scores(0.0, 1187.5, 380.0),
    "video_pinball": Scores(16256.9, 17667.9, 42684.0),
    "wizard_of_wor": Scores(563.5, 4756.5, 3393.0),
    "yars_revenge": Scores(3092.9, 54576.9),
    "zaxxon": Scores(32.5, 9173.3, 4977.0),
}
"""57 games, by the names that the emulator uses; all four scores are known of the paper's ten."""
PAPERS_GAMES = tuple(game for game, scores in SCORES.items() if not math.isnan(scores.dqn_human_starts))
"""The ten games of the distillation paper."""


def percent_of_teacher(score: float, teacher: float) -> float:
    """The paper's yardstick: 100 score / teacher, both measured under one protocol.

    It is a ratio of raw scores, as in the paper: nothing is subtracted. So it asks for a scale that begins at zero,
    which Pong's (-21 to 21) does not: a teacher of 2 and a student of 3 are one point and 50% apart. Where the
    teacher's score is zero or negative the ratio has no meaning (half of -20 would be "50%", and better): the answer
    is nan, which is no failure of the student. A student below zero under a good teacher has a negative percentage.

    Args:
        score: the student's mean return.
        teacher: the teacher's mean return.

    Returns:
        Percent; nan where `teacher` is not positive.

    >>> percent_of_teacher(15.0, 12.0)
    125.0
    >>> percent_of_teacher(-6.0, 12.0)
    -50.0
    >>> percent_of_teacher(-10.0, -20.0)
    nan
    """
    return 100.0 * score / teacher if teacher > 0 else math.nan


def normalised(score: float, game: str) -> float:
    """The score on a scale where random play is 0 and the human is 1: (score - random) / (human - random).

    Args:
        score: a mean return, measured from no-op starts like the columns that it is compared with.
        game: any; nan where it is none of `SCORES`.

    >>> normalised(14.6, "pong"), normalised(-20.7, "pong"), normalised(0.0, "adventure")
    (1.0, 0.0, nan)
    """
    if game not in SCORES:
        return math.nan
    scores = SCORES[game]
    return (score - scores.random) / (scores.human - scores.random)


def geometric_mean(values: ArrayLike) -> np.ndarray:
    """The paper's summary over games, along the first axis: the n-th root of the product of n values (percentages).

    It has no meaning for negative values, and none is invented by clipping them or leaving them out: one negative
    value or one nan (a game where the percentage is undefined) makes the whole summary nan, and so does an empty list.
    Otherwise one zero makes it 0.

    >>> round(float(geometric_mean([50.0, 200.0])), 6)
    100.0
    >>> [float(geometric_mean(values)) for values in ([0.0, 100.0], [-1.0, 100.0], [])]
    [0.0, nan, nan]
    """
    array = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # the logarithm of 0 is -inf, that of less is nan
        return stats.gmean(array) if len(array) else np.full(array.shape[1:], np.nan)


def interval(returns: Iterable[float]) -> tuple[float, float]:
    """The 95% interval of a mean return over independent episodes (Student's t): mean +- t s / sqrt(n).

    It says how well these episodes pin down *this* policy's score under *this* protocol, not what another training run
    with another seed would reach. Returns need not be normal for it, but with few, skewed episodes it is rough. It has
    zero width when all returns are equal, as those of a deterministic policy can be.

    Args:
        returns: the returns of n episodes.

    Returns:
        (low, high); (nan, nan) with fewer than two episodes, which say nothing about the spread.

    >>> low, high = interval([12.0, 14.0, 13.0, 15.0])
    >>> round(low, 2), round(high, 2)
    (11.45, 15.55)
    >>> interval([14.0])
    (nan, nan)
    """
    sample = np.fromiter(returns, dtype=np.float64)
    if len(sample) < 2:
        return math.nan, math.nan
    mean = float(sample.mean())
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    half = float(stats.t.ppf(0.975, df=len(sample) - 1)) * error
    return mean - half, mean + half
