"""Which folders a report takes for runs, and what it reads in them."""

import os
import re
import shutil

import numpy as np
import pytest
from reporting import measured, run_main, table, write_run

from pd_lightning.report import read_run
from pd_lightning.report.folders import runs_in
from pd_lightning.report.runs import joined


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
    {"data": {"beta": 1.0, "teachers": {"pong": "other.zip"}}}, {"data": {"fire": False}},
    {"data": {"validation": 0.0}}, {"data": {"memory": 0.1}},
])  # fmt: skip
def test_runs_that_differ_in_anything_but_the_seed_are_never_averaged(tmp_path, other):
    found = measured(write_run(tmp_path, {"pong": [1.0]}), write_run(tmp_path, {"pong": [3.0]}, seed=1, **other))
    assert len(found) == 2
    usual = {"devices": 2, "overfit_batches": 0.0, "accumulate_grad_batches": 1, "gradient_clip_val": None}
    same = {"data": {"seed": 7, "cache": "elsewhere", "threads": 3}, "more": {"trainer": usual}}
    found = measured(write_run(tmp_path, {"pong": [1.0]}), write_run(tmp_path, {"pong": [3.0]}, seed=1, **same))
    ((games),) = found.values()
    assert games["pong"].score == 2.0


def test_a_calibrated_temperature_is_called_by_its_perplexity(tmp_path):
    run = read_run(write_run(tmp_path, {"pong": [1.0]}, temperature="auto", perplexity=2.0))
    assert run.student.loss == "kl, perplexity 2"
    mixed = {"breakout": "auto", "pong": 0.01}
    run = read_run(write_run(tmp_path, {"pong": [1.0]}, temperature=mixed, perplexity=1.5))
    assert run.student.loss == f"kl, τ = {mixed}, perplexity 1.5"


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


def test_a_copied_run_is_not_joined_with_what_lies_by_now_where_its_first_attempt_was(tmp_path):
    first = write_run(tmp_path / "workspace", {"pong": [2.0]}, updates=(0, 50))
    last = goes_on(tmp_path / "workspace", first, {"pong": [5.0]}, updates=(100,))
    shutil.copytree(tmp_path / "workspace", tmp_path / "results")
    shutil.rmtree(first)
    write_run(tmp_path, {"pong": [7.0]}, updates=(0, 10), size="net2").rename(first)
    (run,) = runs_in([tmp_path / "results"])
    assert (list(run.curve["pong"]), run.earlier) == ([0, 50, 100], (tmp_path / "results" / first.name,))
    (run,) = runs_in([tmp_path / "results" / last.name])
    assert list(run.curve["pong"]) == [0, 50, 100]


def test_a_test_of_weights_from_elsewhere_is_not_a_score_of_the_run_that_has_their_number(tmp_path, capsys):
    mine = write_run(tmp_path, {"pong": [18.0]}, size="net1")
    for weights in ("there", "gone"):
        checkpoint = tmp_path / weights / mine.name / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        test = goes_on(tmp_path, checkpoint.parents[1], {"pong": [-20.0]}, updates=(100,), size="net3",
                       more={"verbose": True})  # fmt: skip
        if weights == "gone":
            checkpoint.unlink()
        (run,) = runs_in([mine, test], tests=True)
        assert run.returns["pong"].tolist() == [18.0]
        assert f"left out: {test} is of a test, whose run is not there" in capsys.readouterr().err


def test_of_runs_alike_the_tested_one_counts_once(tmp_path, capsys):
    tested, twin = (write_run(tmp_path, {"pong": [score]}) for score in (2.0, 3.0))
    test = goes_on(tmp_path, tested, {"pong": [7.0]}, updates=(100,), more={"verbose": True})
    (run,) = runs_in([tested, twin, test], tests=True)
    assert run.returns["pong"].tolist() == [7.0]
    assert f"left out: {twin} has the same settings and seed as {tested}, which counts" in capsys.readouterr().err


def test_runs_without_a_seed_are_none_of_them_the_same(tmp_path):
    runs = [write_run(tmp_path, {"pong": [1.0]}, seed=seed) for seed in (False, False, 0)]
    assert [run.seed for run in runs_in(runs)] == [-1, -1, 0]


def test_runs_with_other_seeds_of_the_data_are_no_duplicates(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, {"pong": [2.0]}, data={"seed": seed})
    assert len(runs_in([tmp_path])) == 2


def test_a_run_that_was_made_longer_stands_beside_the_one_that_it_began_with(tmp_path):
    short = write_run(tmp_path, {"pong": [2.0]}, more={"trainer": {"max_steps": 100}})
    goes_on(tmp_path, short, {"pong": [5.0]}, updates=(200,), more={"trainer": {"max_steps": 200}})
    runs = runs_in([tmp_path])
    assert [list(run.curve["pong"]) for run in runs] == [[0, 100], [0, 100, 200]]


def test_a_run_that_goes_on_in_another_memory_has_the_order_of_its_first_attempt(tmp_path):
    first = write_run(tmp_path, {"pong": [2.0]}, data={"memory": 0.1, "validation": 0.5})
    last = goes_on(tmp_path, first, {"pong": [5.0]}, updates=(200,), data={"memory": 9.0, "validation": 0.5})
    (run,) = runs_in([tmp_path])
    assert (run.folder, run.earlier) == (last, (first,))
    assert run.student.settings == read_run(first).student.settings
    assert "memory 0.1" in run.student.settings


@pytest.mark.parametrize(("before", "said"), [
    ({"more": {"trainer": {"max_steps": 100}}}, "goes on from max_steps 100"),
    ({"more": {"trainer": {"max_steps": 200}}, "data": {"beta": 1.0}}, "goes on from the teacher acts"),
    ({"more": {"trainer": {"max_steps": 200}}, "loss": "nll"}, "goes on from nll"),
])  # fmt: skip
def test_a_run_that_began_with_the_weights_of_another_kind_is_not_taken_for_one_from_nothing(tmp_path, before, said):
    longer = {"updates": (200,), "more": {"trainer": {"max_steps": 200}}}
    first = write_run(tmp_path, {"pong": [2.0]}, updates=(0, 50), **before)
    after = goes_on(tmp_path, first, {"pong": [5.0]}, **longer)
    again = goes_on(tmp_path, after, {"pong": [7.0]}, **longer)
    alone = write_run(tmp_path, {"pong": [3.0]}, **longer)
    found = {run.folder: run for run in runs_in([tmp_path])}
    assert list(found) == [first, again, alone]
    began = [[each for each in run.student.said if each.startswith("goes on")] for run in found.values()]
    assert began == [[], [said], []]


def test_a_test_is_of_the_run_whose_checkpoint_it_scored_also_where_another_goes_on_from_that(tmp_path):
    first = write_run(tmp_path, {"pong": [2.0]}, updates=(0, 50), more={"trainer": {"max_steps": 50}})
    longer = goes_on(tmp_path, first, {"pong": [3.0]}, updates=(100,), more={"trainer": {"max_steps": 100}})
    for run, score, at in ((first, 7.0, 50), (longer, 9.0, 100)):
        goes_on(tmp_path, run, {"pong": [score]}, updates=(at,), more={"verbose": True})
    found = {run.folder: (run.student.updates, run.returns["pong"].tolist()) for run in runs_in([tmp_path], tests=True)}
    assert found == {first: (50, [7.0]), longer: (100, [9.0])}


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


HEAD = "update,game,episode,return,steps,seed\n"


def break_csv(text):
    return lambda folder: (folder / "returns.csv").write_text(text)


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
    stopped = write_run(tmp_path, {"pong": [1.0]}, updates=(0, 20))
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


def test_a_run_that_was_stopped_before_it_was_scored_as_a_student_is_left_out(tmp_path, monkeypatch, capsys):
    one, untrained = (write_run(tmp_path, {"pong": [1.0]}, updates=updates) for updates in ((0, 100), (0,)))
    assert [run.folder for run in runs_in([one, untrained])] == [one]
    assert f"left out: {untrained} has played with untrained weights alone" in capsys.readouterr().err


def test_a_run_that_began_with_others_weights_and_was_killed_is_one_with_what_went_on(tmp_path):
    first = write_run(tmp_path, {"pong": [2.0]}, updates=(0, 50), weights="one")
    after = goes_on(tmp_path, first, {"pong": [5.0]}, weights=None)  # those of the checkpoint count
    other = write_run(tmp_path, {"pong": [3.0]}, seed=1, weights="one")
    joined, alone = runs_in([tmp_path])
    assert (joined.folder, alone.folder) == (after, other)
    assert joined.student == alone.student


def test_runs_that_began_with_others_weights_are_told_apart_whatever_the_shares_of_their_games(tmp_path):
    shares = {"weights": {"pong": 2}}
    runs = [write_run(tmp_path, {"pong": [1.0]}, data=shares, weights=weights) for weights in ("one", "two", None)]
    said = [{each for each in read_run(folder).student.settings if each.startswith(("begins", "weights"))}
            for folder in runs]  # fmt: skip
    mine = "weights {'pong': 2}"
    assert said == [{"begins_with one", mine}, {"begins_with two", mine}, {mine}]


def test_a_run_that_was_made_from_python_is_left_out_by_its_name(tmp_path, monkeypatch, capsys):
    whole, bare = (write_run(tmp_path / "logs", {"pong": [score]}) for score in (1.0, 3.0))
    (bare / "config.yaml").unlink()
    said = f"left out: {bare} has no config.yaml, which only the command line writes\n"
    assert [run.folder for run in runs_in([tmp_path])] == [whole]
    assert capsys.readouterr().err == said
    shutil.rmtree(whole)
    assert run_main(monkeypatch, tmp_path) == 1
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert "no run that has played" in err


def test_a_folder_of_links_to_runs_will_do(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "logs", {"pong": [3.0]})
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "best").symlink_to(run)
    assert run_main(monkeypatch, tmp_path / "chosen") == 0
