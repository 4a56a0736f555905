"""Reference scores and the arithmetic on top of them."""

import math

import numpy as np
import pytest
from ale_py.roms import get_all_rom_ids
from scipy import stats

from pd_lightning.scores import SCORES, geometric_mean, interval, normalised, percent_of_teacher

every_game = pytest.mark.parametrize("game", SCORES)


def test_the_games_are_the_papers_ten_by_the_emulators_names():
    assert len(SCORES) == 10
    assert set(SCORES) <= set(get_all_rom_ids())


@every_game
def test_random_play_is_the_lowest_score_of_every_game(game):
    assert SCORES[game].random == min(SCORES[game])
    assert len(set(SCORES[game])) == len(SCORES[game])


def test_a_known_row_is_the_published_one():
    assert SCORES["pong"]._asdict() == {"random": -20.7, "human": 14.6, "dqn": 18.9, "dqn_human_starts": 16.2}


def test_percent_of_teacher_is_the_ratio_of_the_raw_scores():
    assert percent_of_teacher(303.9, 303.9) == 100.0
    assert percent_of_teacher(8.1, 16.2) == pytest.approx(50.0)
    assert percent_of_teacher(-8.1, 16.2) == pytest.approx(-50.0)
    assert percent_of_teacher(0.0, 16.2) == 0.0


@pytest.mark.parametrize("teacher", [0.0, -20.7, math.nan])
def test_a_teacher_without_a_positive_score_gives_no_percentage(teacher):
    assert math.isnan(percent_of_teacher(-10.0, teacher))


@every_game
@pytest.mark.parametrize("reference", ["human", "dqn"])
def test_normalised_scores_begin_at_random_play_and_reach_one_at_the_reference(game, reference):
    assert normalised(SCORES[game].random, game, reference) == 0.0
    assert normalised(getattr(SCORES[game], reference), game, reference) == 1.0


def test_an_unknown_game_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no published scores for the game 'Pong'.*freeway, ms_pacman, pong"):
        normalised(1.0, "Pong")


@pytest.mark.parametrize("reference", ["random", "dqn_human_starts", "teacher"])
def test_scores_are_not_normalised_with_a_column_of_another_protocol(reference):
    with pytest.raises(ValueError, match="reference must be 'human' or 'dqn'"):
        normalised(1.0, "pong", reference)


def test_the_geometric_mean_is_scipys_whatever_the_order():
    percentages = [108.3, 101.7, 83.9, 12.5]
    assert geometric_mean(percentages) == pytest.approx(stats.gmean(percentages))
    assert geometric_mean(reversed(percentages)) == pytest.approx(geometric_mean(percentages))
    assert geometric_mean([42.0]) == pytest.approx(42.0)


@pytest.mark.parametrize("values", [[], [-5.0, 100.0], [-5.0, -5.0], [math.nan, 100.0], [0.0, math.nan], [0.0, -1.0]])
def test_the_geometric_mean_of_what_has_none_is_nan(values):
    assert math.isnan(geometric_mean(values))


def test_one_zero_makes_the_geometric_mean_zero():
    assert geometric_mean([100.0, 0.0, 100.0]) == 0.0


def test_the_interval_is_students_from_the_printed_table():
    returns = [12.0, 14.0, 13.0, 15.0]  # mean 13.5, s = 1.291; t(0.975, 3) = 3.182 in every table
    half = 3.182 * 1.29099 / 2
    assert interval(returns) == pytest.approx((13.5 - half, 13.5 + half), abs=1e-3)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(loc=16.2, scale=3.0, size=(1000, 5))
    hits = sum(low < 16.2 < high for low, high in map(interval, samples))
    assert 930 < hits < 970  # 950 expected, one deviation is 7


def test_more_confidence_is_a_wider_interval_around_the_same_mean():
    returns = [12.0, 14.0, 13.0, 15.0]
    (low, high), (lower, higher) = interval(returns, 0.8), interval(returns, 0.99)
    assert lower < low < high < higher
    assert (low + high) / 2 == pytest.approx((lower + higher) / 2)


@pytest.mark.parametrize("returns", [[], [21.0]])
def test_fewer_than_two_episodes_have_no_interval(returns):
    assert all(math.isnan(end) for end in interval(returns))


def test_equal_returns_have_an_interval_of_no_width():
    assert interval([21.0, 21.0, 21.0]) == (21.0, 21.0)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got"):
        interval([1.0, 2.0], confidence)
