"""Reports from the command line, and the teachers that they compare with."""

import csv
import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import short_play
from PIL import Image
from reporting import add_teacher, run_main, table, write_run
from scipy import stats

from pd_lightning.recording import record_shard
from pd_lightning.report import measure, read_run
from pd_lightning.report.lines import write_runs, write_students
from pd_lightning.report.recorded import teacher_of
from pd_lightning.teacher import load_teacher


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


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    assert run_main(monkeypatch, write_run(tmp_path, {"pong": [3.0]}), f"--output={tmp_path / 'file'}") == 1
    assert re.fullmatch(r"error: .*file.*\n", capsys.readouterr().err)
