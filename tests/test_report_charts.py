"""A report's pictures."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from reporting import write_run
from scipy import stats

from pd_lightning.report import charts, measure, read_run
from pd_lightning.report.pictures import figure_of, finish
from pd_lightning.report.teachers import teacher_lines


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
    charts.draw(axes["one"], [{0: alone, 10: alone}], color="k")
    (band,) = axes["one"].collections
    low, high = stats.t.interval(0.95, 4, 3, stats.sem(alone))
    assert np.unique(np.asarray(band.get_paths()[0].vertices)[:, 1]) == pytest.approx([low, high])


def test_what_was_scored_once_has_a_bar_as_an_area_without_a_width_is_not_seen():
    _, axes = figure_of(["pong"])
    charts.draw(axes["pong"], [{5: np.array([1.0, 3.0])}, {5: np.array([6.0, 8.0])}], color="k")
    (bar,) = axes["pong"].collections
    np.testing.assert_array_equal(bar.get_paths()[0].vertices, [(5, 2), (5, 7)])
    assert np.all(np.asarray(bar.get_linewidth()) > 0)


def test_a_teacher_that_only_some_students_had_is_called_by_whose_it_is(tmp_path):
    folders = [*(write_run(tmp_path, {"pong": [1.0]}, protocol=rules, data={"root": "datasets"})
                 for rules in ("paper", "machado")),
               *(write_run(tmp_path, {"pong": [1.0]}, data={"beta": beta}) for beta in (0.0, 1.0))]  # fmt: skip
    students = [read_run(folder).student for folder in folders]
    recorded, elsewhere, acts, watches = students
    labels = dict(zip(students, "abcd", strict=True))
    one, two, nobody = np.full(5, 1.0), np.full(5, 2.0), np.empty(0)
    assert teacher_lines({recorded: one, elsewhere: nobody}, labels) == {"teacher, protocol paper": 1.0}
    assert teacher_lines({recorded: one, acts: two}, labels) == {"teacher, root datasets": 1.0, "teacher, live": 2.0}
    assert teacher_lines({acts: one, watches: two}, labels) == {"teacher of c": 1.0, "teacher of d": 2.0}
    assert teacher_lines({recorded: nobody}, labels) == teacher_lines({}, labels) == {}


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
