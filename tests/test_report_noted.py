"""Runs are compared with what they noted of their teachers, wherever the recordings are by now."""

import csv

from conftest import short_play
from reporting import add_teacher, run_main, table, write_run

from pd_lightning.recording import record_shard
from pd_lightning.report import measure, read_run
from pd_lightning.report.folders import runs_in
from pd_lightning.report.recorded import teacher_of
from pd_lightning.teacher import load_teacher

GONE = {"root": "gone"}


def teachers_in(text):
    """The teacher's mean by game, in the lines of all runs."""
    head, _, *rows = table(text, "All runs")
    return {row[head.index("game")]: row[head.index("teacher")] for row in rows}


def test_a_run_whose_recording_is_gone_is_compared_with_what_it_noted_of_it(tmp_path, monkeypatch, capsys):
    run = add_teacher(write_run(tmp_path, {"pong": [3.0]}, data=GONE), {"pong": {0: [4.0, 8.0]}})
    assert run_main(monkeypatch, run) == 0
    printed = capsys.readouterr()
    assert teachers_in(printed.out) == {"pong": "6.0"}
    assert not printed.err
    older = write_run(tmp_path, {"breakout": [3.0]}, data=GONE)  # noted nothing
    assert run_main(monkeypatch, run, older) == 0
    printed = capsys.readouterr()
    assert teachers_in(printed.out) == {"breakout": "-", "pong": "6.0"}
    assert printed.err == "left out: the teacher of breakout, as gone has no recording of it; see --root\n"


def test_a_recording_that_is_named_counts_over_what_was_noted(tmp_path, monkeypatch, capsys, teachers):
    header = short_play("pong", teachers["pong"])
    shard = record_shard(load_teacher(teachers["pong"]), tmp_path / "data/pong/0000.h5", header, lambda n: None)
    run = add_teacher(write_run(tmp_path, {"pong": [3.0]}, data=GONE), {"pong": {0: [4.0, 8.0]}})
    assert run_main(monkeypatch, run, f"--root={tmp_path / 'data'}") == 0
    assert teachers_in(capsys.readouterr().out) == {"pong": f"{shard.returns.mean():.1f}"}


def test_a_recorded_teacher_is_none_that_was_followed_though_it_was_noted_twice(tmp_path, monkeypatch, capsys):
    first = add_teacher(write_run(tmp_path, {"pong": [3.0]}, updates=(0, 50), data=GONE), {"pong": {50: [4.0]}})
    more = {"ckpt_path": str(first / "checkpoints" / "last.ckpt")}
    on = add_teacher(write_run(tmp_path, {"pong": [3.0]}, data=GONE, more=more), {"pong": {100: [4.0]}})
    assert run_main(monkeypatch, first, on) == 0
    assert "## Following" not in capsys.readouterr().out


def test_a_test_is_compared_with_the_teacher_by_its_own_rules_or_with_nobody(tmp_path):
    run = add_teacher(write_run(tmp_path, {"pong": [3.0]}, data=GONE), {"pong": {0: [4.0]}})

    def tested(noted, **rules):
        more = {"verbose": True, "ckpt_path": str(run / "checkpoints" / "last.ckpt")}
        test = write_run(tmp_path / "tests", {"pong": [5.0]}, updates=(100,), data=GONE, more=more, **rules)
        found = runs_in([run, add_teacher(test, {"pong": {100: noted}}) if noted else test], tests=True)
        (scored,) = found
        return teacher_of({}, found, scored.student, "pong").tolist()

    assert tested([6.0]) == [6.0]
    assert tested([]) == [4.0]
    assert tested([7.0], protocol="nature") == [7.0]
    assert tested([], protocol="nature") == []


def test_runs_of_recordings_that_were_made_anew_are_each_compared_with_their_own(tmp_path, monkeypatch, capsys):
    runs = [
        add_teacher(write_run(tmp_path, {"pong": [score] * 2}, seed=n, data=GONE), {"pong": {0: [teacher] * 2}})
        for n, (score, teacher) in enumerate([(5.0, 10.0), (20.0, 20.0)])
    ]
    assert run_main(monkeypatch, *runs, f"--output={tmp_path}") == 0
    capsys.readouterr()
    with (tmp_path / "report.csv").open(newline="") as file:
        assert [float(line["percent_of_teacher"]) for line in csv.DictReader(file)] == [50.0, 100.0]


def test_a_recording_that_grew_between_two_runs_is_one_teacher(tmp_path):
    grown = [10.0, 12.0, 14.0, 12.0, 9.0]
    runs = [
        read_run(
            add_teacher(write_run(tmp_path, {"pong": [6.0] * 5}, seed=n, data=GONE), {"pong": {0: grown[:length]}})
        )
        for n, length in enumerate((3, 5, 4))
    ]
    ((games,)) = measure(runs, lambda student, game: teacher_of({}, runs, student, game), noted=True).values()
    assert (games["pong"].own, games["pong"].teacher.tolist()) == ((), grown)


def test_an_earlier_checkpoint_of_a_run_whose_teacher_learned_is_compared_with_that_as_it_was_then(tmp_path):
    data = {"learn": True, "beta": 1.0}
    run = add_teacher(write_run(tmp_path, {"pong": [9.0]}, data=data), {"pong": {50: [10.0], 100: [20.0]}})
    more = {"verbose": True, "ckpt_path": str(run / "checkpoints" / "best.ckpt")}
    test = write_run(tmp_path, {"pong": [9.0]}, updates=(50,), data=data, more=more)
    (scored,) = runs_in([run, test], tests=True)
    assert list(scored.teacher["pong"]) == [50]
    early = write_run(tmp_path, {"pong": [9.0]}, updates=(70,), data=data, more=more)
    (scored,) = runs_in([run, early], tests=True)
    assert scored.teacher == {}  # it was not scored then: an earlier score is no yardstick


def test_runs_that_noted_the_same_recording_count_its_episodes_once(tmp_path):
    runs = [read_run(add_teacher(write_run(tmp_path, {"pong": [3.0]}, seed=n, data=GONE), {"pong": {n: [4.0, 8.0]}}))
            for n in range(3)]  # fmt: skip
    assert teacher_of({}, runs, runs[0].student, "pong").tolist() == [4.0, 8.0]
