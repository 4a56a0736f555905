"""Reference scores and the arithmetic on top of them."""

import math

import numpy as np
import pytest
from ale_py.roms import get_all_rom_ids

from pd_lightning.scores import PAPERS_GAMES, SCORES, geometric_mean, interval, normalised, percent_of_teacher

every_game = pytest.mark.parametrize("game", PAPERS_GAMES)


def test_the_games_are_the_papers_ten_and_the_57_of_atari_by_the_emulators_names():
    assert len(SCORES) == 57
    assert len(PAPERS_GAMES) == 10
    assert set(SCORES) <= set(get_all_rom_ids())
    assert sum(not math.isnan(scores.dqn) for scores in SCORES.values()) == 49  # those of the Nature paper
    assert all(scores.random < scores.human for scores in SCORES.values())


@every_game
def test_random_play_is_the_lowest_score_of_every_game(game):
    assert SCORES[game].random == min(SCORES[game])
    assert len(set(SCORES[game])) == len(SCORES[game])


def test_a_known_row_is_the_published_one():
    assert SCORES["boxing"][:3] == (0.1, 12.1, 71.8)
    assert SCORES["pong"]._asdict() == {"random": -20.7, "human": 14.6, "dqn": 18.9, "dqn_human_starts": 16.2}


@pytest.mark.parametrize("teacher", [0.0, math.nan])
def test_a_teacher_without_a_positive_score_gives_no_percentage(teacher):
    assert math.isnan(percent_of_teacher(-10.0, teacher))


@every_game
def test_normalised_scores_begin_at_random_play_and_reach_one_at_the_human(game):
    assert normalised(SCORES[game].random, game) == 0.0
    assert normalised(SCORES[game].human, game) == 1.0


def test_the_geometric_mean_is_the_root_of_the_product_whatever_the_order():
    percentages = [108.3, 101.7, 83.9, 12.5]
    assert geometric_mean(percentages) == pytest.approx(np.prod(percentages) ** (1 / 4))
    assert geometric_mean(percentages[::-1]) == pytest.approx(geometric_mean(percentages))
    assert geometric_mean([42.0]) == pytest.approx(42.0)
    table = [[108.3, 1.0, 0.0, -1.0], [12.5, 4.0, 3.0, 5.0]]  # a column each
    np.testing.assert_allclose(geometric_mean(table), [(108.3 * 12.5) ** (1 / 2), 2.0, 0.0, np.nan])


@pytest.mark.parametrize("values", [[-5.0, -5.0], [math.nan, 100.0], [0.0, math.nan], [0.0, -1.0]])
def test_the_geometric_mean_of_what_has_none_is_nan(values):
    assert math.isnan(geometric_mean(values))


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(loc=16.2, scale=3.0, size=(1000, 5))
    hits = sum(low < 16.2 < high for low, high in map(interval, samples))
    assert 930 < hits < 970  # 950 expected, one deviation is 7


def test_no_episodes_have_no_interval():
    assert all(math.isnan(end) for end in interval([]))


def test_equal_returns_have_an_interval_of_no_width():
    assert interval([21.0, 21.0, 21.0]) == (21.0, 21.0)
