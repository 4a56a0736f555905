"""What runs are worth in a report: every number is recomputed here from the episodes, in another way."""

import math

import numpy as np
import pytest
from reporting import TEACHERS, add_teacher, measured, write_run
from scipy import stats

from pd_lightning.report import Measure, measure, measures, read_run, summaries, summarise
from pd_lightning.report.measures import limits, wider
from pd_lightning.report.recorded import teacher_of


def test_each_run_by_itself_is_compared_with_the_teacher_that_learned_with_it():
    values = tuple(np.array([score]) for score in (10.0, 20.0, 30.0))
    measure = Measure("pong", values, np.concatenate(values), own=values)
    assert [each.percent for each in measure.singles] == [100, 100, 100]


def test_scores_and_shares_are_those_of_the_episodes(tmp_path):
    runs = {0: [12.0, 14.0, 13.0], 1: [18.0, 20.0, 16.0]}
    ((games),) = measured(*(write_run(tmp_path, {"pong": v}, seed=s) for s, v in runs.items())).values()
    score = (13.0 + 18.0) / 2
    assert games["pong"].score == score
    assert games["pong"].percent == pytest.approx(100 * score / 19.0)
    assert games["pong"].above_random == pytest.approx(100 * (score + 20.7) / (19.0 + 20.7))
    assert games["pong"].human == pytest.approx(100 * (score + 20.7) / (14.6 + 20.7))


def drawn_one_by_one(values, teacher, count):
    """The bootstrap of a percentage as one would explain it."""
    rng = np.random.default_rng(12)
    return [100 * np.mean([values[rng.integers(len(values))] for _ in values])
            / np.mean([teacher[rng.integers(len(teacher))] for _ in teacher]) for _ in range(count)]  # fmt: skip


def test_the_interval_of_a_single_run_is_of_its_episodes_and_the_teachers_drawn_one_by_one():
    rng = np.random.default_rng(5)
    run, teacher = rng.normal(14, 3, 60), rng.normal(20, 2, 70)
    low, high = limits(Measure("pong", (run,), teacher).resampled(np.random.default_rng(0)))
    assert [low, high] == pytest.approx(np.percentile(drawn_one_by_one(run, teacher, 4000), [2.5, 97.5]), abs=0.5)


@pytest.mark.parametrize("count", [5, 30])
def test_the_interval_of_few_episodes_is_students_t(count):
    run = np.random.default_rng(5).normal(14, 3, count)
    found = Measure("pong", (run,), np.full(5, 20.0))
    mean, error = run.mean(), stats.sem(run)
    expected = mean + error * stats.t.ppf(0.975, count - 1) * np.array([-1, 1])
    tolerance = 0.15 * error * stats.t.ppf(0.975, count - 1)
    assert limits(found.score_resampled(np.random.default_rng(0))) == pytest.approx(expected, abs=tolerance)
    shares = np.array(limits(found.resampled(np.random.default_rng(0)))) / 5
    assert shares == pytest.approx(expected, abs=tolerance)


def test_the_interval_of_many_runs_is_of_their_means_drawn_one_by_one():
    rng = np.random.default_rng(5)
    runs, teacher = tuple(rng.normal(mean, 3, 12) for mean in rng.normal(15, 2, 40)), rng.normal(20, 2, 15)
    low, high = limits(Measure("pong", runs, teacher).resampled(np.random.default_rng(0)))
    one_by_one = drawn_one_by_one([run.mean() for run in runs], teacher, 4000)
    assert [low, high] == pytest.approx(np.percentile(one_by_one, [2.5, 97.5]), abs=0.8)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_intervals_of_few_runs_hold_the_truth_as_often_as_they_say(count, monkeypatch):
    monkeypatch.setattr(measures, "RESAMPLES", 1000)
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):  # runs lie 10 apart, episodes 20: a bootstrap of three runs alone holds it in 84% of cases
        runs = tuple(rng.normal(mean, 20, 30) for mean in rng.normal(100, 10, count))
        low, high = limits(Measure("pong", runs, np.full(5, 100.0)).resampled(rng))
        hits += low < 100 < high
    assert 0.92 < hits / 400 < 0.98  # one deviation is 0.011


@pytest.mark.parametrize("deviations", [(5, 5), (5, 5, 5, 5), (10, 1), (10, 1, 1, 1)])
def test_intervals_of_geometric_means_hold_the_truth_as_often_as_they_say_and_are_not_wider(deviations, monkeypatch):
    """Also where one game makes nearly all of the spread: its three runs know it with two degrees of freedom only."""
    monkeypatch.setattr(measures, "RESAMPLES", 1000)
    rng, hits, widths, nearly = np.random.default_rng(0), 0, [], np.full(200, 100.0)
    for _ in range(200):
        found = [Measure(f"game{n}", tuple(np.full(5, rng.normal(100, deviation)) for _ in range(3)), nearly)
                 for n, deviation in enumerate(deviations)]  # fmt: skip
        _, low, high = summarise(found).geometric
        hits += low < 100 < high
        widths.append(high - low)
    assert 0.91 < hits / 200 <= 0.99
    error = math.hypot(*deviations) / math.sqrt(3) / len(deviations)
    most = stats.t.ppf(0.975, 2 if deviations[0] > deviations[1] else 1.3 * len(deviations))
    assert np.median(widths) < 1.15 * 2 * most * error


def test_games_whose_runs_lie_apart_alike_share_their_degrees_of_freedom():
    """After Welch and Satterthwaite; equal variances add up, and one that is far larger stands alone."""
    near, far = (99.0, 101.0, 100.0), (1.0, 199.0, 100.0)

    def degrees(*games):
        runs = [tuple(np.full(5, score) for score in game) for game in games]
        return summaries.shared_degrees([Measure("pong", each, np.full(5, 100.0)) for each in runs])

    assert degrees(near, near, near) == pytest.approx(6)
    assert degrees(near, near, far) == pytest.approx(2, abs=0.01)
    assert degrees((100.0,) * 3, (50.0,) * 3) == 4  # no run differs: it does not matter
    assert degrees((100.0,), (0.0, 0.0)) == 1


def test_summaries_over_games_are_the_geometric_and_the_interquartile_mean_and_the_median():
    runs = {"pong": ([11.8, 13.8], [12.2, 14.2]), "breakout": ([295.0], [305.0]), "freeway": ([30.0], [28.0])}
    found = summarise(
        [Measure(g, tuple(np.tile(each, 5) for each in v), np.tile(TEACHERS[g], 3)) for g, v in runs.items()]
    )
    percents = [100 * 13 / 19, 100 * 300 / 350, 100 * 29 / 29]
    assert found.geometric[0] == pytest.approx(math.exp(np.mean(np.log(percents))))
    assert found.geometric[1] < found.geometric[0] < found.geometric[2]
    above = sorted([100 * (12.8 + 20.7) / 39.7, 100 * (13.2 + 20.7) / 39.7, 100 * 293.3 / 348.3, 100 * 303.3 / 348.3,
                    100 * 30 / 29, 100 * 28 / 29])  # fmt: skip
    assert found.interquartile[0] == pytest.approx(np.mean(above[1:-1]))
    human = [100 * (13 + 20.7) / 35.3, 100 * (300 - 1.7) / 28.8, 100 * 29 / 29.6]
    assert found.human == pytest.approx(np.median(human))


def test_the_interquartile_mean_is_as_uncertain_as_its_runs_are_far_apart():
    runs = {"pong": (12.0, 16.0), "breakout": (290.0, 310.0), "freeway": (30.0, 28.0)}
    teachers = {"pong": 19.0, "breakout": 350.0, "freeway": 29.0}
    found = [Measure(g, tuple(np.full(9, w) for w in v), np.full(9, teachers[g])) for g, v in runs.items()]
    drawn, rng = [], np.random.default_rng(3)
    for _ in range(4000):
        picked = sorted(value for each in found for value in rng.choice([m.above_random for m in each.singles], 2))
        drawn.append(np.mean(picked[1:-1]))
    assert summarise(found).interquartile[1:] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.5)


def test_the_interquartile_mean_is_as_uncertain_as_the_episodes_of_runs_that_are_alike():
    episodes, rng = np.random.default_rng(0).normal(10, 6, 40), np.random.default_rng(1)
    found = summarise([Measure("pong", (episodes,) * 4, np.full(9, 18.0))]).interquartile
    means = rng.normal(episodes.mean(), stats.sem(episodes), (20_000, 4))
    low, high = np.percentile(np.sort(means)[:, 1:-1].mean(1), [2.5, 97.5])
    assert found[2] - found[1] == pytest.approx(100 * (high - low) / 38.7, rel=0.1)


def test_the_interquartile_mean_is_as_uncertain_as_its_teacher():
    teacher = np.random.default_rng(0).normal(18, 6, 40)
    found = summarise([Measure("pong", (np.full(9, 15.0),) * 4, teacher)]).interquartile
    low, high = stats.t.interval(0.95, 39, teacher.mean(), stats.sem(teacher))
    assert found[1:] == pytest.approx((100 * 35.7 / (high + 20.7), 100 * 35.7 / (low + 20.7)), abs=0.4)


def test_the_interquartile_mean_draws_a_student_of_several_games_for_all_games_at_once():
    worth = np.random.default_rng(1).normal(1.0, 0.2, 8)  # of a run, in every game
    apart, together = (
        summarise([Measure("freeway", tuple(np.full(5, 30 * w) for w in worth), np.full(5, 30.0), shared)] * 10)
        for shared in (False, True)
    )
    widths = [summary.interquartile[2] - summary.interquartile[1] for summary in (apart, together)]
    assert widths[1] > 2.5 * widths[0]  # ten games say no more of eight runs than one does


def test_of_two_ways_to_draw_the_wider_one_counts_also_where_some_draws_have_no_meaning():
    near, far = np.linspace(90, 110, 1000), np.linspace(50, 150, 1000)
    far[0] = np.nan
    assert wider(near, far) is far
    assert wider(far, near) is far


def test_runs_of_too_few_episodes_leave_the_interquartile_mean_without_an_interval():
    many, few = np.full(9, 15.0), np.full(4, 15.0)
    good, poor = Measure("pong", (many,) * 3, np.full(9, 18.0)), Measure("freeway", (few,), np.full(9, 30.0))
    found = summarise([good, good, poor]).interquartile
    assert np.isfinite(found[0])
    assert np.isnan(found[1:]).all()


def test_a_mean_that_leaves_nothing_out_is_no_interquartile_mean():
    each = Measure("pong", (np.full(5, 15.0),), np.full(5, 18.0))
    assert math.isnan(summarise([each] * 3).interquartile[0])
    assert summarise([each] * 4).interquartile == pytest.approx((each.above_random,) * 3)


def test_runs_of_recordings_of_other_lengths_lie_within_their_interval():
    rng = np.random.default_rng(0)
    own = (rng.normal(330, 20, 20), rng.normal(380, 20, 200))
    runs = tuple(np.full(30, 0.97 * each.mean()) + rng.normal(0, 9, 30) for each in own)
    found = Measure("breakout", runs, np.concatenate(own), own=own)
    low, high = found.percent_interval
    assert low < found.percent < high
    assert found.percent == pytest.approx(97, abs=1)
    low, high = found.above_random_interval
    assert low < found.above_random < high
    assert high - low < 15  # a run and its teacher go together


def test_a_teacher_that_runs_share_is_as_uncertain_as_for_one_of_them():
    teacher, runs = np.random.default_rng(0).normal(18, 4, 20), (np.full(9, 17.0),) * 3
    other = 2 * teacher.mean() - teacher  # as good, and as uncertain

    def width(*own):
        low, high = Measure("pong", runs, teacher, own=own).above_random_interval
        return high - low

    alike = width(teacher, teacher, teacher)
    assert alike == pytest.approx(width(*(teacher + 1e-9 * n for n in range(3))) * 3**0.5, rel=0.05)
    assert width(teacher, teacher, other) == pytest.approx(alike * (5 / 9) ** 0.5, rel=0.1)


def test_the_interval_above_random_is_as_uncertain_as_the_teacher_and_there_is_none_of_few_episodes():
    alike = (np.full(9, 10.0), np.full(9, 10.0))
    spread = np.array([8.0, 9.0, 10.0, 11.0, 12.0])
    low, high = Measure("pong", alike, spread).above_random_interval
    assert low < Measure("pong", alike, spread).above_random < high
    assert all(map(math.isnan, Measure("pong", alike, spread[:4]).above_random_interval))


def test_the_runs_of_a_student_stand_in_the_order_of_their_seeds(tmp_path):
    folders = [write_run(tmp_path, {"pong": [float(seed)] * 3}, seed=seed) for seed in (2, 0, 1)]
    ((games),) = measured(*folders).values()
    assert [values[0] for values in games["pong"].runs] == [0, 1, 2]
    assert games["pong"].seeds == ((0, 0), (1, 0), (2, 0))


def test_shares_of_a_teacher_without_a_positive_score_have_no_meaning_but_those_above_random_have():
    found = Measure("pong", (np.array([-10.0, -12.0]),), np.array([-16.0, -14.0]))
    assert math.isnan(found.percent)
    assert all(math.isnan(limit) for limit in limits(found.resampled(np.random.default_rng(0))))
    assert found.above_random == pytest.approx(100 * (-11 + 20.7) / (-15 + 20.7))
    nobody = Measure("pong", (np.array([3.0]),), np.empty(0))
    assert math.isnan(nobody.percent)
    assert math.isnan(nobody.above_random)
    assert nobody.human == pytest.approx(100 * (3 + 20.7) / 35.3)
    unknown = Measure("adventure", (np.array([3.0]),), np.array([6.0]))
    assert (unknown.percent, math.isnan(unknown.above_random), math.isnan(unknown.human)) == (50.0, True, True)


def test_the_runs_of_a_student_of_several_games_are_drawn_for_all_games_at_once():
    rng = np.random.default_rng(1)
    worth = rng.normal(1.0, 0.2, 5)  # of a run, in every game
    names = [f"game{n}" for n in range(10)]
    apart, together = (
        summarise(
            [Measure(name, tuple(np.full(5, 10.0 * w) for w in worth), np.full(5, 10.0), shared) for name in names]
        )
        for shared in (False, True)
    )
    widths = [summary.geometric[2] - summary.geometric[1] for summary in (apart, together)]
    assert widths[1] > 2.5 * widths[0]  # ten games say no more of five runs than one does
    low, high = stats.t.interval(0.95, 4, worth.mean(), stats.sem(worth))
    assert widths[1] == pytest.approx(100 * (high - low), rel=0.15)


def test_a_game_whose_share_has_no_meaning_leaves_the_interquartile_mean_without_one():
    known = Measure("pong", (np.array([15.0]),), np.array([18.0]))
    unknown = Measure("asteroids_", (np.array([1.0]),), np.ones(1))
    assert math.isnan(summarise([known, known, known, unknown]).interquartile[0])


def test_a_run_is_drawn_with_the_teacher_that_learned_with_it(tmp_path):
    worth = (10.0, 20.0, 30.0)  # student and teacher of a run are equally good, so a share is 100% whatever is drawn
    data = {"beta": 1.0, "beta_end": 1.0, "learn": True}
    runs = [read_run(add_teacher(write_run(tmp_path, {"pong": [w] * 5}, seed=n, data=data),
                                 {"pong": {0: [w] * 5, 100: [w] * 5}})) for n, w in enumerate(worth)]  # fmt: skip
    ((games),) = measure(runs, lambda student, game: teacher_of({}, runs, student, game)).values()
    assert limits(games["pong"].resampled(np.random.default_rng(0))) == pytest.approx((100, 100))
