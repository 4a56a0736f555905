"""Reports: every number is recomputed here from the episodes in the runs' folders, in another way."""

import csv
import itertools
import math
import os
import re
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import short_play
from PIL import Image
from scipy import stats

from pd_lightning.recording import record_shard
from pd_lightning.report import Measure, charts, measure, measures, read_run, report, summaries, summarise
from pd_lightning.report.__main__ import main
from pd_lightning.report.folders import runs_in
from pd_lightning.report.lines import write_runs, write_students
from pd_lightning.report.measures import limits
from pd_lightning.report.pictures import figure_of, finish
from pd_lightning.report.recorded import teacher_of
from pd_lightning.report.runs import joined
from pd_lightning.report.teachers import teachers_of
from pd_lightning.teacher import load_teacher

numbers = itertools.count()


def write_run(root, episodes, *, seed=0, updates=(0, 100), protocol="paper", more=None, data=None, **model):
    """A run's folder; `episodes` are each game's returns at the last of the updates, those before have -21."""
    folder = root / f"version_{next(numbers)}"
    folder.mkdir(parents=True)
    settings = {"size": "net1", "loss": "kl", "temperature": 0.01, "learning_rate": 0.003, **model}
    module = {"class_path": "pd_lightning.distillation.PolicyDistillation", "init_args": settings}
    config = {"seed_everything": seed, "model": module, "rollouts": {"protocol": protocol, "fire": None},
              "data": {"init_args": {"batch_size": 256, **(data or {})}}, **(more or {})}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = ["update,game,episode,return,steps,seed"]
    for update in updates:
        for game, values in episodes.items():
            values = values if update == updates[-1] else [-21.0] * len(values)
            lines += [f"{update},{game},{i},{value},900,{i}" for i, value in enumerate(values)]
    (folder / "returns.csv").write_text("\n".join(lines) + "\n")
    return folder


TEACHERS = {"pong": [18.0, 20.0, 19.0], "breakout": [300.0, 400.0], "freeway": [28.0, 30.0]}


def measured(*folders):
    return measure([read_run(folder) for folder in folders], lambda student, game: np.array(TEACHERS[game]))


def table(text, title):
    """The rows of the table below a heading, as lists of cells."""
    part = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:2] == "| "]


# What is read


def test_a_run_is_scored_by_its_last_rollout_and_keeps_the_curve(tmp_path):
    run = read_run(write_run(tmp_path, {"pong": [15.0, 17.0]}, seed=3))
    assert (run.seed, run.student.size, run.student.loss, run.student.updates) == (3, "net1", "kl, τ = 0.01", 100)
    np.testing.assert_array_equal(run.returns["pong"], [15.0, 17.0])
    np.testing.assert_array_equal(run.curve["pong"][0], [-21.0, -21.0])


@pytest.mark.parametrize("other", [
    {"loss": "nll"}, {"size": "net2"}, {"temperature": 0.1}, {"learning_rate": 0.1}, {"protocol": "nature"},
    {"updates": (0, 200)}, {"data": {"batch_size": 64}}, {"more": {"optimizer": {"class_path": "torch.optim.RMSprop"}}},
    {"more": {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1.0}}}}, {"data": {"root": "mine"}},
    {"more": {"lr_scheduler": {"class_path": "torch.optim.lr_scheduler.ConstantLR"}}}, {"data": {"validation": 0.5}},
    {"more": {"trainer": {"callbacks": [{"class_path": "lightning.EMA", "init_args": {"decay": 0.9}}]}}},
    {"more": {"trainer": {"precision": "16-mixed"}}}, {"more": {"trainer": {"limit_train_batches": 0.1}}},
    {"more": {"trainer": {"max_steps": 30_000}}}, {"more": {"trainer": {"accumulate_grad_batches": 2}}},
    {"data": {"beta": 1.0, "teachers": {"pong": "other.zip"}}},
])  # fmt: skip
def test_runs_that_differ_in_anything_but_the_seed_are_never_averaged(tmp_path, other):
    found = measured(write_run(tmp_path, {"pong": [1.0]}), write_run(tmp_path, {"pong": [3.0]}, seed=1, **other))
    assert len(found) == 2
    same = {"data": {"seed": 7, "cache": "elsewhere", "threads": 3}, "more": {"trainer": {"devices": 2}}}
    found = measured(write_run(tmp_path, {"pong": [1.0]}), write_run(tmp_path, {"pong": [3.0]}, seed=1, **same))
    ((games),) = found.values()
    assert games["pong"].score == 2.0


def test_a_calibrated_temperature_is_called_by_its_perplexity(tmp_path):
    run = read_run(write_run(tmp_path, {"pong": [1.0]}, temperature="auto", perplexity=2.0))
    assert run.student.loss == "kl, perplexity 2"
    mixed = {"breakout": "auto", "pong": 0.01}
    run = read_run(write_run(tmp_path, {"pong": [1.0]}, temperature=mixed, perplexity=1.5))
    assert run.student.loss == f"kl, τ = {mixed}, perplexity 1.5"


def test_each_run_by_itself_is_compared_with_the_teacher_that_learned_with_it():
    values = tuple(np.array([score]) for score in (10.0, 20.0, 30.0))
    measure = Measure("pong", values, np.concatenate(values), own=values)
    assert [each.percent for each in measure.singles] == [100, 100, 100]


# What is computed


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
    drawn, rng = [], np.random.default_rng(3)
    for _ in range(4000):
        singles = [[each.above_random for each in Measure(g, tuple(map(np.array, v)), np.array(TEACHERS[g])).singles]
                   for g, v in runs.items()]  # fmt: skip
        picked = sorted(value for pair in singles for value in rng.choice(pair, 2))
        drawn.append(np.mean(picked[1:-1]))
    assert found.interquartile[1:] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.5)


def test_a_mean_that_leaves_nothing_out_is_no_interquartile_mean():
    each = Measure("pong", (np.full(5, 15.0),), np.full(5, 18.0))
    assert math.isnan(summarise([each] * 3).interquartile[0])
    assert summarise([each] * 4).interquartile == pytest.approx((each.above_random,) * 3)


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
    unknown = Measure("tennis", (np.array([3.0]),), np.array([6.0]))
    assert (unknown.percent, math.isnan(unknown.above_random), math.isnan(unknown.human)) == (50.0, True, True)


# The tables


def test_the_table_of_losses_compares_them_game_by_game(tmp_path):
    scores = {("kl", "pong"): 19.0, ("kl", "breakout"): 350.0, ("nll", "pong"): 9.5, ("nll", "breakout"): 175.0}
    folders = [write_run(tmp_path, {game: [s, s]}, loss=loss) for (loss, game), s in scores.items()]
    rows = table(report(measured(*folders)), "Losses")
    assert rows[0] == ["game", "teacher", "nll", "kl, τ = 0.01"]
    assert rows[2:4] == [
        ["breakout", "350.0", "175.0, 50.0%", "350.0, 100.0%"],
        ["pong", "19.0", "9.5, 50.0%", "19.0, 100.0%"],
    ]
    assert rows[4][0] == "geometric mean of %"
    assert [cell.split()[0] for cell in rows[4][2:]] == ["50.0%", "100.0%"]


def test_a_mean_over_games_is_only_given_where_no_game_is_missing(tmp_path):
    folders = [write_run(tmp_path, {"pong": [19.0]}), write_run(tmp_path, {"breakout": [350.0]}),
               write_run(tmp_path, {"pong": [19.0]}, loss="nll")]  # fmt: skip
    rows = table(report(measured(*folders)), "Losses")
    assert rows[2][2] == "-"
    assert (rows[4][2], rows[4][3].split()[0]) == ("-", "100.0%")


def test_the_table_of_compression_says_what_share_of_the_teachers_parameters_a_size_has(tmp_path):
    folders = [write_run(tmp_path, {"pong": [19.0, 19.0]}, size=size) for size in ("net3", "dqn", "net1")]
    rows = table(report(measured(*folders)), "Compression")
    assert rows[0] == ["game", "teacher", "dqn (100.0%)", "net1 (25.2%)", "net3 (3.6%)"]


def test_several_games_in_one_student_are_a_table_of_their_own(tmp_path):
    three = {"pong": [19.0], "breakout": [350.0], "freeway": [29.0]}
    text = report(measured(write_run(tmp_path, three, size="multi3")))
    rows = table(text, "3 games in one student")
    assert [row[0] for row in rows[2:5]] == ["breakout", "freeway", "pong"]
    assert rows[5][2].startswith("100.0%")
    assert "## Losses" not in text
    assert len(table(text, "All runs")) == 2 + 3


@pytest.mark.parametrize(("episodes", "teacher", "interval"), [(5, 5, r"\d+\.\d to \d+\.\d"), (4, 5, "-"), (5, 4, "-"),
                                                             (1, 5, "-")])  # fmt: skip
def test_fewer_than_five_episodes_of_student_or_teacher_have_no_interval(tmp_path, episodes, teacher, interval):
    scores, theirs = np.linspace(1, 3, episodes) if episodes > 1 else [2.0], np.linspace(3, 5, teacher)
    runs = [read_run(write_run(tmp_path, {"pong": list(map(float, scores))}))]
    text = report(measure(runs, lambda student, game: theirs))
    assert re.fullmatch(rf"50\.0% \({interval}\)", table(text, "All runs")[2][8])
    assert "fewer than 5 episodes" in text


def test_a_negative_share_of_a_teacher_is_a_dash_in_tables_and_a_number_for_programs(tmp_path):
    found = measured(write_run(tmp_path, {"pong": [-9.5] * 5}), write_run(tmp_path, {"pong": [9.5] * 5}, loss="nll"))
    above = 100 * (-9.5 + 20.7) / (19 + 20.7)
    assert table(report(found), "Losses")[2][2:] == ["9.5, 50.0%", f"-9.5, - ({above:.1f}% above random)"]
    assert [row[9:11] for row in table(report(found), "All runs")[3:]] == [["-", f"{above:.1f}%"]]
    write_runs(tmp_path / "report.csv", found)
    with (tmp_path / "report.csv").open(newline="") as file:
        assert {line["percent_of_teacher"] for line in csv.DictReader(file)} == {"50.0", "-50.0"}


def test_programs_are_told_the_deviation_of_a_runs_episodes(tmp_path):
    found = measured(write_run(tmp_path, {"pong": [1.0, 2.0, 6.0]}))
    with write_runs(tmp_path / "report.csv", found).open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert float(line["return_std"]) == pytest.approx(np.std([1, 2, 6], ddof=1))


def test_every_row_names_the_folders_of_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [write_run(tmp_path, {"pong": [1.0]}, seed=n, size=size) for size in ("net1", "net2") for n in (0, 1)]
    first, second, third, fourth = (folder.name for folder in folders)
    found = measured(*folders)
    listed = re.findall(r"^\d+\. pong: .*$", report(found), re.M)
    assert listed == [f"1. pong: `{first}`, `{second}`", f"2. pong: `{third}`, `{fourth}`"]
    assert [row[0] for row in table(report(found), "All runs")[2:]] == ["1", "2"]
    write_runs(tmp_path / "report.csv", found)
    with (tmp_path / "report.csv").open(newline="") as file:
        assert [line["runs"] for line in csv.DictReader(file)] == [first, second, third, fourth]
    assert "folders of each" not in report(measured(*folders[:2]))


def test_a_label_says_nothing_twice(tmp_path):
    live = {"beta": 0.0, "protocol": "paper", "lessons": {"passes": 2}}
    folders = [write_run(tmp_path, {"pong": [1.0]}, updates=(0, n), data=live, more={"trainer": {"max_steps": n}})
               for n in (100, 200)]  # fmt: skip
    folders.append(write_run(tmp_path, {"pong": [1.0]}, data=live, more={"trainer": {"max_steps": 300}}))
    rows = table(report(measured(*folders)), "All runs")[2:]
    acts = "kl, τ = 0.01, the student acts"
    assert [row[3:5] for row in rows] == [[acts, "100"], [acts, "200"], [f"{acts}, max_steps 300", "100"]]


def test_students_of_several_games_are_called_by_what_tells_them_apart(tmp_path):
    games = {"pong": [10.0], "breakout": [100.0]}
    text = report(measured(*(write_run(tmp_path, games, size=size, updates=(0, n)) for size, n in
                             (("multi3", 100), ("net1", 200)))))  # fmt: skip
    assert table(text, "2 games in one student")[0] == ["game", "teacher", "net1, 200 updates", "multi3, 100 updates"]
    assert "kl, τ = 0.01, batch_size 256" in text.split("| game")[0]


def test_students_of_different_teachers_are_not_compared_with_one(tmp_path):
    games = {"pong": [10.0], "breakout": [100.0]}
    runs = [read_run(write_run(tmp_path, games, data={"root": root})) for root in ("mine", "other")]
    found = measure(runs, lambda student, game: np.full(5, 10.0 if student.root == "mine" else 20.0))
    assert [row[1] for row in table(report(found), "2 games in one student")[2:4]] == ["10.0 / 20.0"] * 2


# The pictures


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, instead of a file: labels of the lines of each game, and the plots."""
    monkeypatch.setattr(charts, "finish", lambda figure, axes, path, note: axes)

    def labels(axes):
        return {game: [line.get_label() for line in axis.lines if line.get_label()[0] != "_"]
                for game, axis in axes.items()}  # fmt: skip

    return labels


def test_every_teacher_of_a_game_has_a_line_of_its_own(tmp_path, drawn):
    runs = [read_run(write_run(tmp_path, {"pong": [1.0]}, data={"root": root})) for root in ("mine", "other")]
    means = {"mine": 10.0, "other": 20.0}
    axes: Any = charts.learning_curves(runs, measure(runs, lambda s, game: np.full(5, means[s.root])), tmp_path)
    assert drawn(axes)["pong"][2:] == ["teacher, root mine", "teacher, root other"]
    assert [line.get_ydata()[0] for line in axes["pong"].lines[2:]] == [10.0, 20.0]
    assert len({line.get_linestyle() for line in axes["pong"].lines[2:]}) == 2
    axes = charts.learning_curves(runs, measure(runs, lambda s, game: np.full(5, 10.0)), tmp_path)
    assert drawn(axes)["pong"][2:] == ["teacher"]


def test_around_a_curve_is_what_lies_between_its_runs_or_one_runs_interval():
    _, axes = figure_of(["one", "two"])
    runs = [{0: np.array([1.0, 3.0]), 10: np.array([4.0, 6.0])}, {0: np.array([6.0, 8.0]), 10: np.array([5.0, 5.0])}]
    charts.draw(axes["two"], runs, color="k")
    (band,) = axes["two"].collections
    assert {(0, 2), (0, 7), (10, 5)} <= set(map(tuple, np.asarray(band.get_paths()[0].vertices)))
    np.testing.assert_array_equal(axes["two"].lines[0].get_ydata(), [4.5, 5])
    alone = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    charts.draw(axes["one"], [{0: alone}], color="k")
    (band,) = axes["one"].collections
    low, high = stats.t.interval(0.95, 4, 3, stats.sem(alone))
    assert np.unique(np.asarray(band.get_paths()[0].vertices)[:, 1]) == pytest.approx([low, high])


def test_a_teacher_that_only_some_students_had_is_called_by_whose_it_is(tmp_path):
    folders = [*(write_run(tmp_path, {"pong": [1.0]}, protocol=rules, data={"root": "datasets"})
                 for rules in ("paper", "machado")),
               *(write_run(tmp_path, {"pong": [1.0]}, data={"beta": beta}) for beta in (0.0, 1.0))]  # fmt: skip
    students = [read_run(folder).student for folder in folders]
    recorded, elsewhere, acts, watches = students
    labels = dict(zip(students, "abcd", strict=True))
    one, two, nobody = np.full(5, 1.0), np.full(5, 2.0), np.empty(0)
    assert teachers_of({recorded: one, elsewhere: nobody}, labels) == {"teacher, protocol paper": 1.0}
    assert teachers_of({recorded: one, acts: two}, labels) == {"teacher, root datasets": 1.0, "teacher, live": 2.0}
    assert teachers_of({acts: one, watches: two}, labels) == {"teacher of c": 1.0, "teacher of d": 2.0}
    assert teachers_of({recorded: nobody}, labels) == teachers_of({}, labels) == {}


def test_a_student_looks_the_same_in_the_plots_of_all_games(tmp_path, drawn):
    runs = [read_run(write_run(tmp_path, {game: [1.0]}, size=size)) for game in ("pong", "breakout")
            for size in ("net1", "net2")]  # fmt: skip
    axes: Any = charts.learning_curves(runs, measure(runs, lambda s, game: np.empty(0)), tmp_path)
    looks = [[(line.get_label(), line.get_color()) for line in axis.lines] for axis in axes.values()]
    assert looks[0] == looks[1]
    assert len(set(looks[0])) == 2


def test_sizes_and_students_without_a_value_are_left_out_of_the_picture_of_sizes(tmp_path, drawn):
    known = [write_run(tmp_path, {"pong": [1.0]}, size=size) for size in ("net1", "net3")]
    unknown = [write_run(tmp_path, {game: [1.0]}, size="net2", loss="nll", protocol="machado")
               for game in ("pong", "breakout")]  # fmt: skip
    runs = [read_run(folder) for folder in known + unknown]
    found = measure(runs, lambda student, game: np.full(5, 19.0) if student.protocol == "paper" else np.empty(0))
    axes: Any = charts.score_against_size(found, tmp_path)
    assert list(axes) == ["pong"]
    assert drawn(axes)["pong"] == ["kl, τ = 0.01", "teacher"]
    assert [tick.get_text().split()[0] for tick in axes["pong"].get_xticklabels()] == ["net3", "net1"]
    one = measure(runs[1:], lambda student, game: np.full(5, 19.0) if student.protocol == "paper" else np.empty(0))
    assert charts.score_against_size(one, tmp_path) is None


@pytest.mark.parametrize("letters", [3, 60, 1000])
def test_a_legend_is_never_cut_off_nor_wider_than_the_picture(tmp_path, letters):
    figure, axes = figure_of(["pong"])
    for number in range(4):
        axes["pong"].plot([0, 1], [0, number], label=f"{number}" + " word" * (letters // 5))
    picture = np.asarray(Image.open(finish(figure, axes, tmp_path / "x.png")).convert("L"))
    assert picture.shape[1] <= 910
    assert min(edge.min() for edge in (picture[:2], picture[-2:], picture[:, :2].T, picture[:, -2:].T)) == 255


# From the command line


@pytest.fixture
def recorded(tmp_path, teachers):
    """A recording of Pong under protocol paper."""
    header = short_play("pong", teachers["pong"])
    return record_shard(load_teacher(teachers["pong"]), tmp_path / "data" / "pong" / "0000.h5", header, lambda n: None)


def test_learning_teachers_that_were_scored_once_are_each_run_s_own_for_programs_too(tmp_path):
    live = {"beta": 0.5, "beta_end": 0.5, "learn": True}
    runs = [read_run(add_teacher(write_run(tmp_path, {"pong": [w] * 5}, seed=n, data={**live, "seed": n + 7}),
                                 {"pong": {100: [w] * 5}})) for n, w in enumerate((10.0, 15.0, 20.0))]  # fmt: skip
    found = measure(runs, lambda student, game: teacher_of({}, runs, student, game))
    with write_runs(tmp_path / "report.csv", found).open(newline="") as file:
        lines = [(line["seed"], line["data_seed"], line["return"], line["teacher"], line["percent_of_teacher"])
                 for line in csv.DictReader(file)]  # fmt: skip
    assert lines == [(str(n), str(n + 7), w, w, "100.0") for n, w in enumerate(("10.0", "15.0", "20.0"))]
    with write_students(tmp_path / "students.csv", found).open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["runs"], line["episodes"], line["score"], line["percent_of_teacher"]) == ("3", "15", "15.0", "100.0")
    low, high = stats.t.interval(0.95, 2, 15.0, 5 / math.sqrt(3))
    assert [float(line["score_low"]), float(line["score_high"])] == pytest.approx([low, high], abs=1.0)
    assert [float(line["percent_low"]), float(line["percent_high"])] == pytest.approx([100, 100])


def run_main(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["report", *map(str, words)])
    return main()


def test_a_report_is_markdown_csv_and_pictures(tmp_path, monkeypatch, capsys, recorded):
    folders = [write_run(tmp_path, {"pong": [3.0 + seed, 5.0]}, seed=seed, size=size) for seed in (0, 1)
               for size in ("net1", "net3")]  # fmt: skip
    assert run_main(monkeypatch, *folders, f"--root={tmp_path / 'data'}", f"--output={tmp_path / 'out'}") == 0
    printed = capsys.readouterr()
    text = (tmp_path / "out" / "report.md").read_text()
    assert printed.out.strip() == text.strip()
    assert "## Compression" in text
    teacher = recorded.returns.mean()
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4
    assert {float(line["return"]) for line in lines} == {4.0, 4.5}
    assert all(float(line["teacher"]) == teacher for line in lines)
    for name in ("curves.png", "sizes.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert 800 <= picture.width <= 1000
            assert len(picture.convert("L").getcolors() or []) > 10  # something is drawn
        assert name in printed.err


def test_a_teacher_that_played_by_other_rules_is_not_compared_with(tmp_path, monkeypatch, capsys, recorded):
    folder = write_run(tmp_path, {"pong": [3.0]}, protocol="machado")
    assert run_main(monkeypatch, folder, f"--root={tmp_path / 'data'}") == 0
    assert re.search(r"\| pong \| net1 .* \| 3\.0 \(-\) \| - \| - \| - \|", capsys.readouterr().out)


def test_students_under_other_rules_stand_in_columns_of_their_own(tmp_path):
    together = {"pong": [10.0], "breakout": [100.0]}
    halves = {"pong": [5.0], "breakout": [50.0]}
    found = measured(write_run(tmp_path, together), write_run(tmp_path, halves, protocol="machado"))
    head, *_ = table(report(found), "2 games in one student")
    assert sum("protocol paper" in cell for cell in head) == sum("protocol machado" in cell for cell in head) == 1
    rows = [row[3] for row in table(report(found), "All runs")[2:]]
    assert len(set(rows)) == 2


def test_folders_of_tests_are_left_out(tmp_path, monkeypatch, capsys):
    fit = write_run(tmp_path, {"pong": [1.0]})
    test = write_run(tmp_path, {"pong": [9.0]}, more={"verbose": True, "ckpt_path": "last.ckpt"})
    assert run_main(monkeypatch, fit, test) == 0
    out, err = capsys.readouterr()
    assert f"left out: {test} is of a test" in err
    assert "9.0" not in out.split("## All runs")[1].split("Score: ")[0]


def test_tests_count_instead_of_their_runs_own_scores_if_that_is_asked_for(tmp_path, monkeypatch, capsys):
    tested, other, gone = (write_run(tmp_path, {"pong": [1.0]}, seed=n, updates=(0, 50, 100)) for n in range(3))

    def test_of(run, score, update, **settings):
        more = {"verbose": True, "ckpt_path": str(run / "checkpoints" / "last.ckpt")}
        return write_run(
            tmp_path, {"pong": [score, score]}, updates=(update,), size="as it is by default", more=more, **settings
        )

    folders = [tested, other, test_of(tested, 7.0, 100), test_of(tested, 8.0, 100),
               test_of(tested, 5.0, 100, protocol="nature"), test_of(gone, 9.0, 50)]  # fmt: skip
    nowhere = test_of(tmp_path / "nowhere", 4.0, 100)
    runs = {(run.folder, run.student.protocol): run for run in runs_in([*folders, nowhere], tests=True)}
    assert f"left out: {nowhere} is of a test, whose run is not there" in capsys.readouterr().err
    last = {key: (max(run.curve["pong"]), run.returns["pong"].tolist()) for key, run in runs.items()}
    assert last == {(other, "paper"): (100, [1]), (tested, "paper"): (100, [8, 8]), (tested, "nature"): (100, [5, 5]),
                    (gone, "paper"): (50, [9, 9])}  # fmt: skip
    assert {run.student.size for run in runs.values()} == {"net1"}
    assert list(runs[tested, "paper"].curve["pong"]) == [0, 50, 100]
    assert (list(runs[tested, "nature"].curve["pong"]), runs[gone, "paper"].seed) == ([100], 2)
    assert run_main(monkeypatch, "--tests=true", tested, folders[3]) == 0
    assert "| 1 x 2 | 8.0 |" in capsys.readouterr().out


def test_a_folder_of_runs_will_do_and_so_will_a_pattern_that_no_shell_expanded(tmp_path, monkeypatch, capsys):
    logs = tmp_path / "deep" / "lightning_logs"
    folders = [write_run(logs, {"pong": [score]}, seed=n) for n, score in enumerate((3.0, 5.0))]
    test = write_run(logs, {"pong": [9.0]}, more={"verbose": True})
    assert run_main(monkeypatch, *folders) == 0
    expected = capsys.readouterr().out
    for words in ([tmp_path], [logs], [f"{logs}/*"], [f"{tmp_path}/*/*"], [logs, folders[0]]):
        assert run_main(monkeypatch, *words) == 0
        out, err = capsys.readouterr()
        assert out == expected
        assert (
            err == f"left out: {test} is of a test, whose run has a score of its own; --tests true takes the test's\n"
        )
    assert run_main(monkeypatch, tmp_path / "nothing*") == 1
    assert "nothing*: has no config.yaml; name folders of runs" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run_main(monkeypatch, tmp_path / "empty") == 1
    assert "no run that has played" in capsys.readouterr().err


def goes_on(root, earlier, *args, **settings):
    """A run that began with the last checkpoint of another."""
    more = {"ckpt_path": str(earlier / "checkpoints" / "last.ckpt"), **settings.pop("more", {})}
    return write_run(root, *args, more=more, **settings)


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_that_goes_on_from_a_checkpoint_is_one_with_those_before(tmp_path, monkeypatch, moved):
    monkeypatch.chdir(tmp_path)
    first = write_run(tmp_path / "logs", {"pong": [2.0]}, updates=(0, 50))
    silent = goes_on(tmp_path / "logs", first, {"pong": [3.0]}, updates=(60,))
    (silent / "returns.csv").unlink()  # it was killed before it played
    last = goes_on(tmp_path / "logs", silent, {"pong": [5.0]}, updates=(100,))
    os.utime(first / "returns.csv")  # as if it had been copied last
    if moved:
        (tmp_path / "logs").rename(tmp_path / "copied")
        first, last = (tmp_path / "copied" / each.name for each in (first, last))
    for named in ([tmp_path], [last], [last.relative_to(tmp_path)], [first, last]):
        (run,) = runs_in(named)
        assert (list(run.curve["pong"]), run.student.updates) == ([0, 50, 100], 100)
        assert run.folders.split(";") == [str(folder.relative_to(tmp_path)) for folder in (first, last)]


def test_a_run_that_was_moved_alone_is_not_joined_with_whoever_has_the_number_of_its_first_attempt(tmp_path):
    there = write_run(tmp_path, {"pong": [2.0]}, size="net3")
    gone = tmp_path / "elsewhere" / there.name
    last = goes_on(tmp_path, gone, {"pong": [5.0]}, updates=(100,), size="net1")
    (run,) = runs_in([last])
    assert (list(run.curve["pong"]), run.earlier) == ([100], ())


def test_runs_with_other_seeds_of_the_data_are_no_duplicates(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, {"pong": [2.0]}, data={"seed": seed})
    assert len(runs_in([tmp_path])) == 2


def test_a_run_that_was_made_longer_stands_beside_the_one_that_it_began_with(tmp_path):
    short = write_run(tmp_path, {"pong": [2.0]}, more={"trainer": {"max_steps": 100}})
    goes_on(tmp_path, short, {"pong": [5.0]}, updates=(200,), more={"trainer": {"max_steps": 200}})
    runs = runs_in([tmp_path])
    assert [list(run.curve["pong"]) for run in runs] == [[0, 100], [0, 100, 200]]


def test_a_folder_that_was_left_before_its_settings_were_written_is_left_out(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    assert run_main(monkeypatch, write_run(tmp_path, {"pong": [1.0]}), tmp_path / "empty") == 0
    assert f"left out: {tmp_path / 'empty'} has no returns.csv" in capsys.readouterr().err


def test_a_resumed_run_is_one_run_with_all_that_its_attempts_played(tmp_path):
    folders = [write_run(tmp_path, {"pong": [value]}, updates=updates) for value, updates in
               ((2.0, (0, 50, 100)), (5.0, (50, 75)))]  # fmt: skip
    for folder in folders:
        shutil.copy(folder / "returns.csv", folder / "teacher_returns.csv")
    first, second = map(read_run, folders)
    whole = joined([first, second])
    assert list(whole.teacher["pong"]) == list(whole.curve["pong"])
    assert {update: values.tolist() for update, values in whole.curve["pong"].items()} == {0: [-21], 50: [-21], 75: [5]}
    assert (whole.folder, whole.student.updates) == (second.folder, 75)


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


def test_episodes_of_one_frozen_teacher_count_once_and_those_of_learning_ones_each(tmp_path):
    def runs(*teachers):
        return [read_run(add_teacher(write_run(tmp_path, {"pong": [0.0]}, seed=n), {"pong": {100: values}}))
                for n, values in enumerate(teachers)]  # fmt: skip

    frozen, learning = runs([3.0, 5.0], [3.0, 5.0]), runs([3.0, 5.0], [4.0, 6.0])
    assert teacher_of({}, frozen, frozen[0].student, "pong").tolist() == [3, 5]
    assert teacher_of({}, learning, learning[0].student, "pong").tolist() == [3, 5, 4, 6]


@pytest.mark.parametrize(
    ("field", "other"), [("epsilon", 0.0), ("sticky", 0.25), ("teacher_sha256", "b"), ("fire", True)]
)
def test_shards_that_were_mixed_are_no_teachers_score(tmp_path, field, other):
    run = read_run(write_run(tmp_path, {"pong": [1.0]}))
    usual = {
        "protocol": "paper",
        "epsilon": 0.05,
        "sticky": 0.0,
        "fire": False,
        "player": "teacher",
        "teacher_sha256": "a",
    }
    first, same, mixed = (
        SimpleNamespace(header=SimpleNamespace(**{**usual, **changes}), returns=np.array([value]))
        for value, changes in ((3.0, {}), (5.0, {}), (7.0, {field: other}))
    )
    shards: Any = {("", "pong"): [first, same]}
    assert teacher_of(shards, [run], run.student, "pong").tolist() == [3, 5]
    shards["", "pong"].append(mixed)
    assert len(teacher_of(shards, [run], run.student, "pong")) == 0


def test_a_run_is_drawn_with_the_teacher_that_learned_with_it(tmp_path):
    worth = (10.0, 20.0, 30.0)  # student and teacher of a run are equally good, so a share is 100% whatever is drawn
    data = {"beta": 1.0, "beta_end": 1.0, "learn": True}
    runs = [read_run(add_teacher(write_run(tmp_path, {"pong": [w] * 5}, seed=n, data=data),
                                 {"pong": {0: [w] * 5, 100: [w] * 5}})) for n, w in enumerate(worth)]  # fmt: skip
    ((games),) = measure(runs, lambda student, game: teacher_of({}, runs, student, game)).values()
    assert limits(games["pong"].resampled(np.random.default_rng(0))) == pytest.approx((100, 100))


def break_csv(text):
    return lambda folder: (folder / "returns.csv").write_text(text)


HEAD = "update,game,episode,return,steps,seed\n"


@pytest.mark.parametrize(("damage", "complaint"), [
    (lambda folder: shutil.rmtree(folder), "has no config.yaml; name folders of runs"),
    (lambda folder: (folder / "config.yaml").write_text("model: {}"), "lacks or garbles 'seed_everything'"),
    (lambda folder: (folder / "config.yaml").write_text("a: ["), "lacks or garbles"),
    (lambda folder: (folder / "config.yaml").write_text("just text"), "lacks or garbles"),
    (break_csv(HEAD), "has no episodes|lacks or garbles"),
    (break_csv(HEAD + "x,pong,0,1,1,1\n"), "lacks or garbles invalid literal"),
    (break_csv("update,game,return\n1,pong,1\n"), "lacks or garbles 'episode'"),
    (break_csv(HEAD + "1,pong,0,1,1,1\n1,pong,0,2,1,1\n"), "episode 0 of pong at update 1, which is there twice"),
    (break_csv(HEAD + "1,pong,0,1,1,1\n2,breakout,0,2,1,1\n"), "last rollouts differ"),
])  # fmt: skip
def test_a_broken_run_is_named_with_what_is_wrong(tmp_path, monkeypatch, capsys, damage, complaint):
    good, folder = write_run(tmp_path, {"pong": [1.0]}), write_run(tmp_path, {"pong": [1.0]}, seed=1)
    damage(folder)
    assert run_main(monkeypatch, good, folder) == 1
    err = capsys.readouterr().err
    assert re.match(rf"error: {re.escape(str(folder))}: .*({complaint})", err), err
    assert err.count("\n") == 1


def test_of_runs_with_the_same_settings_and_seed_the_one_that_got_farthest_counts_or_the_newest(
    tmp_path, monkeypatch, capsys
):
    stopped = write_run(tmp_path, {"pong": [1.0]}, updates=(0,))
    one, twin = (write_run(tmp_path, {"pong": [score]}) for score in (2.0, 3.0))
    late = write_run(tmp_path, {"pong": [1.0]}, updates=(0, 50))
    for order in ([stopped, one, twin, late], [late, twin, one, stopped]):
        assert run_main(monkeypatch, *order) == 0
        out, err = capsys.readouterr()
        assert [row[5] for row in table(out, "All runs")[2:]] == ["3.0"]
        for folder in (stopped, one, late):
            assert f"left out: {folder} has the same settings and seed as " in err


def test_a_run_that_never_played_is_left_out(tmp_path, monkeypatch, capsys):
    one, idle = (write_run(tmp_path, {"pong": [1.0]}) for _ in range(2))
    (idle / "returns.csv").unlink()
    assert run_main(monkeypatch, one, idle) == 0
    assert f"left out: {idle} has no returns.csv" in capsys.readouterr().err
    assert run_main(monkeypatch, idle) == 1
    assert "no run that has played" in capsys.readouterr().err


def test_a_run_without_a_recording_is_compared_with_nobody(tmp_path, monkeypatch, capsys, recorded):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").rename(tmp_path / "datasets")
    assert run_main(monkeypatch, write_run(tmp_path, {"pong": [3.0]})) == 0
    assert table(capsys.readouterr().out, "All runs")[2][7] == "-"


def test_a_recording_that_is_not_there_is_said(tmp_path, monkeypatch, capsys, recorded):
    gone = write_run(tmp_path, {"pong": [3.0]}, data={"root": str(tmp_path / "gone")})
    assert run_main(monkeypatch, gone) == 0
    assert f"left out: the teacher of pong, as {tmp_path}/gone has no recording of it" in capsys.readouterr().err
    assert run_main(monkeypatch, gone, f"--root={tmp_path / 'nowhere'}") == 1
    assert f"error: {tmp_path}/nowhere: has a recording of none of the games" in capsys.readouterr().err
    assert run_main(monkeypatch, gone, f"--root={tmp_path / 'data'}") == 0


def test_a_folder_of_links_to_runs_will_do(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "logs", {"pong": [3.0]})
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "best").symlink_to(run)
    assert run_main(monkeypatch, tmp_path / "chosen") == 0


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    assert run_main(monkeypatch, write_run(tmp_path, {"pong": [3.0]}), f"--output={tmp_path / 'file'}") == 1
    assert re.fullmatch(r"error: .*file.*\n", capsys.readouterr().err)


# Live teachers


def add_teacher(folder, curves):
    """What a run with a live teacher leaves beside its own returns."""
    lines = ["update,game,episode,return,steps,seed"]
    for game, points in curves.items():
        lines += [f"{u},{game},{i},{v},900,{i}" for u, values in points.items() for i, v in enumerate(values)]
    (folder / "teacher_returns.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_live_teacher_is_what_its_students_are_compared_with(tmp_path, capsys, monkeypatch):
    folder = add_teacher(write_run(tmp_path, {"pong": [10.0, 14.0]}), {"pong": {0: [1.0, 1.0], 100: [15.0, 17.0]}})
    assert run_main(monkeypatch, folder) == 0
    assert "| 12.0 (-) | 16.0 | 75.0%" in capsys.readouterr().out


def test_students_of_live_teachers_differ_in_who_acted(tmp_path):
    acted = {
        "the student acts": {"beta": 0.0, "beta_end": None},
        "the teacher acts": {"beta": 1.0, "beta_end": 1.0},
        "the teacher acts at 50% of the steps": {"beta": 0.5, "beta_end": None},
        "the teacher acts at 100% of the steps, after 19,200 at 0%": {"beta": 1.0, "beta_end": 0.0},
    }
    folders = [
        write_run(tmp_path, {game: [score]}, data={**data, "beta_steps": 19200, "learn": False, "fresh": 0.125})
        for score, data in enumerate(acted.values())
        for game in ("pong", "breakout")
    ]
    text = report(measured(*folders))
    head, _, breakout, pong, *_ = table(text, "Who acts")
    assert head == ["game", "teacher", *sorted(acted)]
    assert [cell.split(",")[0] for cell in pong[2:]] == [f"{list(acted).index(who):.1f}" for who in sorted(acted)]
    assert breakout[0] == "breakout"
    assert "fresh 0.125" in text.split("## Who acts")[1].split("|")[0]


def test_what_is_set_to_the_same_for_all_is_said_once(tmp_path):
    text = report(measured(*(write_run(tmp_path, {"pong": [1.0]}, data={"batch_size": n}) for n in (64, 128))))
    assert "All of them: learning_rate 0.003, protocol paper." in text
    assert [row[3] for row in table(text, "All runs")[2:]] == [
        "kl, τ = 0.01, batch_size 128",
        "kl, τ = 0.01, batch_size 64",
    ]


def test_how_steadily_a_student_follows_is_of_the_second_half(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    updates = range(0, 1001, 100)
    student, teacher = ({u: rng.normal(10, 3, 4).round(3).tolist() for u in updates} for _ in range(2))
    folder = add_teacher(write_run(tmp_path, {"pong": [0.0]}, seed=5), {"pong": teacher})
    lines = [f"{u},pong,{i},{v},900,{i}" for u, values in student.items() for i, v in enumerate(values)]
    (folder / "returns.csv").write_text("\n".join(["update,game,episode,return,steps,seed", *lines]) + "\n")
    assert run_main(monkeypatch, folder, "--output", tmp_path / "out") == 0
    *_, row = table(capsys.readouterr().out, "Following a live teacher")
    late = [u for u in updates if u >= 500]
    expected = []
    for curve in (teacher, student):
        means = [sum(curve[u]) / 4 for u in late]
        center = sum(means) / len(means)
        expected.append((center, math.sqrt(sum((m - center) ** 2 for m in means) / (len(means) - 1))))
    assert row[:5] == ["pong", "5", "6", *(f"{m:.1f} ± {d:.1f}" for m, d in expected)]
    assert row[5] == f"{expected[1][1] / expected[0][1]:.2f}"
    assert 850 <= Image.open(tmp_path / "out" / "curves.png").size[0] <= 910


def test_runs_without_a_live_teacher_have_no_such_table(tmp_path, capsys, monkeypatch):
    assert run_main(monkeypatch, write_run(tmp_path, {"pong": [1.0]})) == 0
    assert "Following" not in capsys.readouterr().out
