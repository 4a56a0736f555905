"""A report's tables."""

import csv
import math
import re

import numpy as np
import pytest
from PIL import Image
from reporting import add_teacher, measured, run_main, table, write_run

from pd_lightning.report import measure, read_run, report
from pd_lightning.report.lines import write_runs
from pd_lightning.report.runs import ReportError


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


def test_programs_are_told_the_temperature_that_was_calibrated_for_each_game(tmp_path):
    played = {"pong": [1.0], "breakout": [2.0]}
    folders = [write_run(tmp_path, played, seed=n, temperature="auto", perplexity=2.0) for n in (0, 1)]
    rows = ["step,temperature/breakout,temperature/pong,val/pong/kl", "0,0.031,0.0039,", "500,,,0.1"]
    (folders[0] / "metrics.csv").write_text("\n".join(rows) + "\n")
    with write_runs(tmp_path / "report.csv", measured(*folders)).open(newline="") as file:
        found = {(line["game"], line["seed"]): line["temperature"] for line in csv.DictReader(file)}
    assert found == {
        ("pong", "0"): "0.0039",
        ("breakout", "0"): "0.031",
        ("pong", "1"): "nan",
        ("breakout", "1"): "nan",
    }
    (folders[1] / "metrics.csv").write_text("step,temperature/pong\n0,warm\n")
    with pytest.raises(ReportError, match=f"{folders[1].name}: .* lacks or garbles .*warm"):
        measured(*folders)


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


def test_students_under_other_rules_stand_in_columns_of_their_own(tmp_path):
    together = {"pong": [10.0], "breakout": [100.0]}
    halves = {"pong": [5.0], "breakout": [50.0]}
    found = measured(write_run(tmp_path, together), write_run(tmp_path, halves, protocol="machado"))
    head, *_ = table(report(found), "2 games in one student")
    assert sum("protocol paper" in cell for cell in head) == sum("protocol machado" in cell for cell in head) == 1
    rows = [row[3] for row in table(report(found), "All runs")[2:]]
    assert len(set(rows)) == 2


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
