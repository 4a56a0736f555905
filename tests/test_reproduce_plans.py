"""What a reproduction plans, word by word; what its options stand for; how the time of its tasks is counted."""

from collections import Counter
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_reproduce import run_main, settings

from pd_lightning.reproduce import EXPERIMENTS, Plan, Task, TaskError, execute, plan
from pd_lightning.reproduce import __main__ as door
from pd_lightning.reproduce import tasks as tasks_module
from pd_lightning.reproduce.plans import TEMPERATURES

GAMES = ("pong", "breakout")
DATASETS = Path(__file__).parent.parent / "datasets"


def said(task):
    """Option to value, the last where it is said twice."""
    return dict(word.split("=", 1) for word in task.words if "=" in word)


def named(each, kind):
    """What the folder is called of a run of one game that has these options."""
    return f"{each['--data.games'].strip('[]')}-{kind}-seed{each['--seed_everything']}"


def planned(name, datasets, tmp_path, **other):
    return plan([name], settings(datasets, tmp_path, **{"games": GAMES, **other})).runs


def times_each(values):
    """Each value with how often it is to be planned: for two games and two seeds."""
    return dict.fromkeys(values, len(GAMES) * 2)


def test_losses_are_the_three_by_students_as_large_as_dqn(datasets, tmp_path):
    runs = planned("losses", datasets, tmp_path)
    words = [said(task) for task in runs]
    assert {each["--model.size"] for each in words} == {"dqn"}
    assert Counter(each["--model.loss"] for each in words) == times_each(["mse", "nll", "kl"])
    assert [task.name for task in runs] == [named(each, f"dqn-{each['--model.loss']}") for each in words]


def test_compression_is_of_net1_to_net3_by_the_default_loss(datasets, tmp_path):
    runs = planned("compression", datasets, tmp_path)
    words = [said(task) for task in runs]
    assert Counter(each["--model.size"] for each in words) == times_each(["net1", "net2", "net3"])
    assert not any("--model.loss" in each for each in words)
    assert [task.name for task in runs] == [named(each, f"{each['--model.size']}-kl") for each in words]


def test_temperatures_are_those_named_and_the_calibrated_one_of_net1(datasets, tmp_path):
    runs = planned("temperature", datasets, tmp_path)
    words = [said(task) for task in runs]
    assert {each["--model.size"] for each in words} == {"net1"}
    given = [each.get("--model.temperature") for each in words]
    assert Counter(None if value is None else float(value) for value in given) == times_each([*TEMPERATURES, None])
    for task, value in zip(runs, given, strict=True):
        assert ("tau" in task.name) == (value is not None)
        assert value is None or f"-tau{float(value):g}-" in task.name


def test_one_student_of_several_games_learns_them_all_by_nll_and_by_kl(datasets, tmp_path):
    words = [said(task) for task in planned("multi-task", datasets, tmp_path)]
    assert {(each["--data.games"], each["--model.size"]) for each in words} == {("[pong,breakout]", "multi3")}
    assert Counter(each["--model.loss"] for each in words) == {"nll": 2, "kl": 2}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_data_has_the_seed_of_the_weights_and_the_folder_says_it(datasets, tmp_path, name):
    runs = planned(name, datasets, tmp_path, seeds=(3, 8))
    assert {said(task)["--seed_everything"] for task in runs} == {"3", "8"}
    for task in runs:
        each = said(task)
        assert each["--data.seed"] == each["--seed_everything"]
        assert task.name.endswith(f"-seed{each['--data.seed']}")
        assert each["--trainer.default_root_dir"] == task.folder


@pytest.mark.parametrize("updates", [1000, 1001, 7])
def test_an_online_run_is_scored_twenty_times_and_any_other_four(datasets, tmp_path, updates):
    for name, times in (("online", 20), ("losses", 4), ("on-policy", 4)):
        every = {int(said(task)["--rollouts.every_n_updates"]) for task in planned(name, datasets, tmp_path,
                                                                                   updates=updates)}  # fmt: skip
        assert every == {(updates + times - 1) // times}


def test_a_missing_recording_is_made_in_the_root_that_runs_learn_from(teachers, tmp_path):
    root = tmp_path / "mine"
    for game in GAMES:
        (root / game).mkdir(parents=True)
        (root / game / "teacher.safetensors").symlink_to(teachers[game])
    every = plan(["losses"], settings(root, tmp_path, games=GAMES, hours=1.5))
    assert [task.name for task in every.recordings] == list(GAMES)
    for task in every.recordings:
        options = dict(zip(task.words[1::2], task.words[2::2], strict=True))
        assert options == {"--game": task.name, "--hours": "1.5", "--root": str(root)}
    assert {said(task)["--data.root"] for task in every.runs} == {str(root)}


@pytest.mark.parametrize(("words", "updates", "hours"), [
    ([], 20_000, 4.0), (["--quick=true"], 3000, 1.0), (["--quick=true", "--updates=7"], 7, 1.0),
    (["--quick=true", "--hours=2"], 3000, 2.0), (["--updates=7", "--hours=2"], 7, 2.0),
])  # fmt: skip
def test_quick_is_fewer_updates_on_less_play_unless_they_are_named(
    tmp_path, monkeypatch, capsys, words, updates, hours
):
    asked = []
    monkeypatch.setattr(door, "plan", lambda names, given: asked.append((names, given)) or Plan((), ()))
    assert run_main(monkeypatch, "losses", *words, f"--output={tmp_path / 'out'}") == 0
    ((names, given),) = asked
    assert (names, given.updates, given.hours, given.episodes, given.seeds) == (["losses"], updates, hours, 30,
                                                                                (0, 1, 2))  # fmt: skip
    assert f"0 runs of {updates:,} updates" in capsys.readouterr().err


@pytest.mark.parametrize(("experiment", "option"), [
    ("losses", "--model.loss=nll"), ("compression", "--model.size=dqn"), ("temperature", "--model.temperature=1"),
    ("on-policy", "--data.beta=0.5"),
])  # fmt: skip
def test_runs_are_not_told_alike_what_they_are_to_differ_in(tmp_path, monkeypatch, capsys, experiment, option):
    output = tmp_path / "out"
    words = [experiment, "--games=[pong]", f"--output={output}", f"--root={DATASETS}", f"--options=[{option}]"]
    assert run_main(monkeypatch, *words) == 1
    name = option.partition("=")[0]
    assert f"--options has {name}, in which the runs of this experiment are to differ" in capsys.readouterr().err
    assert not output.exists()


def test_seconds_of_a_task_include_those_of_attempts_that_failed(tmp_path, monkeypatch):
    (tmp_path / "fickle.py").write_text("import os; raise SystemExit(0 if os.path.exists('mended') else 1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    clock = count(0, 10)  # it is looked at as an attempt begins and as it ends
    monkeypatch.setattr(tasks_module, "time", SimpleNamespace(time=lambda: float(next(clock))))
    task = Task(str(tmp_path / "task"), ("fickle",), resumable=False)
    for _ in range(2):
        with pytest.raises(TaskError, match="exit status 1"):
            execute(task)
    Path("mended").touch()
    assert execute(task) == 30.0
    assert execute(task) == 30.0  # of one that is done, what it took then
