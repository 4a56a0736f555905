"""Reproductions: what is missing is run, once, whatever was killed before; what is written is what was played."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from handmade import ROOT
from reporting import add_teacher, write_run

from pd_lightning.blocks import ShardError
from pd_lightning.cli import main as fit
from pd_lightning.report import read_run
from pd_lightning.reproduce import EXPERIMENTS, Task, TaskError, execute, plan
from pd_lightning.reproduce.__main__ import main
from pd_lightning.reproduce.plans import Settings, on_policy, recordings
from pd_lightning.reproduce.results import duration, write_results
from pd_lightning.reproduce.tasks import BEGUN, DONE
from pd_lightning.reproduce.workers import here, on_cluster, places

TINY = ["--data.batch_size=64", "--data.validation=0", "--trainer.precision=32-true", "--model.warmup=4",
        "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]  # fmt: skip


def settings(root, tmp_path, **other):
    return Settings(**{"output": str(tmp_path / "out"), "root": str(root), "games": (), "seeds": (0, 1), "updates": 4,
                       "episodes": 1, "hours": 1.0, **other})  # fmt: skip


def command(code, folder):
    """A task that runs some Python."""
    (folder / "tasks").mkdir(exist_ok=True)
    module = f"task{len(list((folder / 'tasks').iterdir()))}"
    (folder / "tasks" / f"{module}.py").write_text(code)
    return Task(str(folder / module), (module,), resumable=False)


@pytest.fixture(autouse=True)
def _modules(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "tasks"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# What is planned


def test_experiments_are_the_papers_games_losses_sizes_and_seeds(datasets, tmp_path):
    root = tmp_path / "root"
    for game in ("breakout", "freeway", "pong", "qbert"):
        shutil.copytree(datasets / "pong", root / game)
    counts = {name: len(plan([name], settings(root, tmp_path)).runs) for name in EXPERIMENTS}
    assert counts == {"losses": 4 * 3 * 2, "compression": 4 * 3 * 2, "multi-task": 2 * 2, "temperature": 8 * 2,
                      "on-policy": 2 * 3 * 2, "online": 2}  # fmt: skip
    every = plan(list(EXPERIMENTS), settings(root, tmp_path)).runs
    assert len({task.folder for task in every}) == len(every) == sum(counts.values()) - 2
    both = plan(["compression", "temperature"], settings(root, tmp_path)).runs
    assert len(both) == counts["compression"] + 7 * 2  # a calibrated temperature is compression's own
    three = plan(["multi-task"], settings(root, tmp_path)).runs[0]
    assert {"--data.games=[freeway,pong,qbert]", "--model.size=multi3"} <= set(three.words)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_planned_command_is_one_that_fit_accepts(datasets, tmp_path, name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    for task in plan([name], settings(datasets, tmp_path, games=("pong", "breakout"))).runs[::5]:
        with pytest.raises(SystemExit) as stopped:
            fit([*task.words[1:], "--print_config"])
        assert stopped.value.code == 0, capsys.readouterr().err


def test_every_planned_run_has_the_settings_asked_for(datasets, tmp_path):
    known = settings(datasets, tmp_path, games=("pong", "breakout"), seeds=(7,), updates=12, episodes=3)
    wanted = {"--data.root": str(datasets), "--seed_everything": "7", "--trainer.max_steps": "12",
              "--rollouts.episodes": "3", "--rollouts.seed": "8", "--rollouts.at_start": "false"}  # fmt: skip
    for task in plan(list(EXPERIMENTS), known).runs:
        said = dict(word.split("=", 1) for word in task.words if "=" in word)  # of a word said twice the last counts
        assert wanted.items() <= said.items(), task.folder


def test_games_without_a_recording_are_recorded_first_and_without_a_teacher_refused(teachers, tmp_path):
    root = tmp_path / "root"
    (root / "pong").mkdir(parents=True)
    for games in (("pong",), ()):
        with pytest.raises(ShardError, match=r"root/\w+: has neither a recording nor a teacher.*--data\.game \w+"):
            plan(["losses"], settings(root, tmp_path, games=games))
    shutil.copy(teachers["pong"], root / "pong")
    (recording,) = plan(["losses", "compression"], settings(root, tmp_path, games=("pong",), hours=2.0)).recordings
    with pytest.raises(ValueError, match=r"multi-task asks for two games at least, not pong; train teachers"):
        plan(["multi-task"], settings(root, tmp_path))
    some = plan(["losses", "temperature"], settings(root, tmp_path))
    assert {word for task in some.runs for word in task.words if "--data.games" in word} == {"--data.games=[pong]"}
    assert sorted(some.left_out) == ["breakout", "freeway", "qbert"]
    assert recording.words[:5] == ("pd_lightning.recording", "--game", "pong", "--hours", "2.0")


def test_live_play_needs_a_teacher_unless_it_is_named_or_learns_and_a_recording_finds_those_that_ship(
    datasets, teachers, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(datasets / "pong", tmp_path / "mine/pong")
    (tmp_path / "mine/pong/teacher.safetensors").unlink(missing_ok=True)
    mine = settings(tmp_path / "mine", tmp_path, games=("pong",))
    with pytest.raises(ShardError, match=r"mine/pong: has no teacher.safetensors; train a teacher"):
        plan(["on-policy"], mine)
    assert plan(["on-policy"], replace(mine, options=("--data.teachers={pong: model.zip}",))).runs
    assert plan(["online"], replace(mine, games=("breakout",))).runs
    with pytest.raises(ShardError, match=r"mine/breakout: has neither"):
        plan(["losses"], replace(mine, games=("breakout",)))
    (tmp_path / "datasets/breakout").mkdir(parents=True)
    shutil.copy(teachers["breakout"], tmp_path / "datasets/breakout/teacher.safetensors")
    assert plan(["losses"], replace(mine, games=("breakout",))).recordings


def test_of_all_experiments_those_are_planned_that_one_game_can_be_learned_in(datasets, teachers, tmp_path):
    shutil.copytree(datasets / "pong", tmp_path / "mine/pong")
    shutil.copy(teachers["pong"], tmp_path / "mine/pong/teacher.safetensors")
    planned = plan(list(EXPERIMENTS), settings(tmp_path / "mine", tmp_path, games=("pong",)))
    assert planned.left_out == {"multi-task": "it asks for two games at least"}
    assert {"pong-net1-kl", "pong-online"} <= {Path(task.folder).name.rsplit("-seed")[0] for task in planned.runs}


def test_in_a_mixture_the_student_acts_alone_from_the_middle_of_the_updates_on(tmp_path):
    for options, batch in (((), 256), (("--data.batch_size=128", "--data.prefill=1000"), 128)):
        runs = on_policy(settings(tmp_path, tmp_path, games=("pong",), updates=1000, options=options))
        (steps,) = {
            word for task in runs if "mixture-acts" in task.folder for word in task.words if "beta_steps" in word
        }
        assert steps == f"--data.beta_steps={(1000 if options else 5000) + 500 * batch // 8}"


# A task


def test_a_task_is_done_once(tmp_path):
    task = command("open('ran', 'a').write('x')", tmp_path)
    seconds = execute(task)
    assert task.done
    assert execute(task) == seconds
    assert Path("ran").read_text() == "x"


def test_a_task_that_fails_is_not_done_and_says_where_to_look(tmp_path):
    task = command("print('why'); raise SystemExit(3)", tmp_path)
    with pytest.raises(TaskError, match=rf"exit status 3, why; see {task.folder}/log\.txt"):
        execute(task)
    assert not task.done


def test_the_folder_of_another_command_is_refused(tmp_path):
    task = command("pass", tmp_path)
    execute(task)
    with pytest.raises(TaskError, match=r"begun\.json: the folder is of another command \(task0\)"):
        execute(Task(task.folder, ("other",)))
    (Path(task.folder) / "done.json").write_text("{")
    with pytest.raises(TaskError, match=r"done\.json: not what this project writes"):
        execute(task)


def test_a_task_that_another_command_began_is_not_gone_on_with(tmp_path):
    mine = command("raise SystemExit(1)", tmp_path)
    with pytest.raises(TaskError, match="exit status 1"):
        execute(mine)
    with pytest.raises(
        TaskError, match=r"begun\.json: the folder is of another command \(task0\); choose another --out"
    ):
        execute(Task(mine.folder, ("other",)))
    with pytest.raises(TaskError, match="exit status 1"):  # the same one may
        execute(mine)


def test_a_recording_that_was_begun_here_is_gone_on_with_although_some_hours_are_there(datasets, tmp_path):
    known = settings(datasets, tmp_path, games=("pong",))
    assert plan(["losses"], known).recordings == ()
    folder = tmp_path / "out/recordings/pong"
    folder.mkdir(parents=True)
    (task,) = plan(["losses"], known).recordings
    assert task.folder == str(folder)
    (folder / "done.json").write_text("{}")
    assert plan(["losses"], known).recordings == ()


def test_a_recording_that_was_made_and_is_gone_is_made_again(datasets, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(datasets / "pong", root / "pong")
    (task,) = recordings(settings(root, tmp_path), ["freeway"])
    Path(task.folder).mkdir(parents=True)
    for name in (BEGUN, DONE):
        (Path(task.folder) / name).write_text(json.dumps({**asdict(task), "seconds": 1.0}))
    assert not task.done
    (root / "freeway").mkdir()
    shutil.copy(datasets / "pong" / "0000.h5", root / "freeway")
    assert task.done


def test_what_a_run_noted_of_its_teacher_counts_after_its_recording_is_gone(tmp_path):
    run = add_teacher(write_run(tmp_path / "runs" / "a" / "lightning_logs", {"pong": [3.0]}), {"pong": {0: [4.0]}})
    task = Task(str(run.parents[1]), ("fit",))
    (run.parents[1] / DONE).write_text(json.dumps({"words": ["fit"], "seconds": 60.0}))
    (tmp_path / "out").mkdir()
    text = write_results([task], settings(tmp_path / "nothing", tmp_path), "reproduce", {}).read_text()
    assert "| 4.0 |" in text
    assert "What was recorded is not there any more." in text


def test_no_planned_command_names_where_this_project_lies(datasets, tmp_path):
    for name in ("on-policy", "online"):
        for task in plan([name], settings(datasets, tmp_path, options=("--data.teachers={}",))).runs:
            assert not any(str(ROOT) in word for word in task.words)


def test_whatever_a_cluster_fails_with_stops_one_task_alone(tmp_path, monkeypatch):
    tasks = [Task(str(tmp_path / name), ()) for name in "ab"]
    answers = [(tasks[0], FileNotFoundError("no such folder")), (tasks[1], 3.0)]
    monkeypatch.setattr("pd_lightning.reproduce.workers.on_ray", lambda address, function, given: iter(answers))
    (_, error), (_, seconds) = on_cluster("auto", tasks, lambda task: None)
    assert isinstance(error, TaskError)
    assert "a: FileNotFoundError: no such folder" in str(error)
    assert seconds == 3.0


def test_nobody_begins_a_task_that_a_process_is_still_at(tmp_path):
    task = command("pass", tmp_path)
    Path(task.folder).mkdir()
    with (Path(task.folder) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TaskError, match="another process is at it"):
            execute(task)
    execute(task)


PARENT = """
import sys
from pd_lightning.reproduce import Task, execute
execute(Task(sys.argv[1], (sys.argv[2],), resumable=False))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it outlives it, and keeps the folder's lock")
def test_a_command_dies_with_the_process_that_waits_for_it(tmp_path):
    code = "import os, time; open('begun', 'a').write('x'); time.sleep(0 if os.path.exists('go') else 99)"
    task = command(code, tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, task.folder, *task.words])
    while not (Path("begun").exists() and Path("begun").read_text()):
        assert parent.poll() is None
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    Path("go").touch()
    with (Path(task.folder) / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the command's own ends with it: the test does not
    execute(task)
    assert Path("begun").read_text() == "xx"


def test_tasks_run_side_by_side_and_one_that_fails_stops_no_other(tmp_path):
    waits = "import time, pathlib\npathlib.Path('{}').touch()\nwhile not pathlib.Path('{}').exists(): time.sleep(0.01)"
    tasks = [command(waits.format("a", "b"), tmp_path), command(waits.format("b", "a"), tmp_path),
             command("raise SystemExit(1)", tmp_path), command("pass", tmp_path)]  # fmt: skip
    begun = []
    outcomes = dict(here(tasks, 2, begun.append))
    assert set(begun) == set(tasks)
    assert [isinstance(outcomes[task], TaskError) for task in tasks] == [False, False, True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the command outlives it")
def test_who_interrupts_a_reproduction_alone_does_not_wait_for_its_commands(tmp_path):
    task = command("import time; open('begun', 'w').close(); time.sleep(99)", tmp_path)
    code = f"""
import pd_lightning.reproduce.__main__ as door
import pd_lightning.reproduce.workers
pd_lightning.reproduce.workers.PATIENCE = 0.1
from pd_lightning.reproduce import Plan, Task
door.plan = lambda *rest: Plan((), (Task({task.folder!r}, {task.words!r}, resumable=False),))
raise SystemExit(door.main())
"""
    parent = subprocess.Popen([sys.executable, "-c", code, "losses"], stderr=subprocess.PIPE, text=True)
    while not Path("begun").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=30)
    assert (parent.returncode, said.splitlines()[-1]) == (130, "stopped; the same command goes on")


@pytest.mark.parametrize("word", ["--updates=0", "--hours=0", "--episodes=0", "--seeds=[]", "--seeds=[1, 1]"])
def test_settings_that_make_no_sense_are_refused_before_anything_is_run(word, tmp_path, monkeypatch, capsys):
    assert run_main(monkeypatch, "losses", word, f"--output={tmp_path / 'out'}") == 1
    assert re.match(rf"error: {word.split('=')[0]} is ", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_each_gpu_has_a_task_or_tasks_share_the_cores(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places(0) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-3")
    assert places(0) == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "GPU-3"}]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert places(0) == [{}]
    assert places(4) == [{"OMP_NUM_THREADS": "2"}] * 4


# What is written


def test_less_than_an_hour_is_said_in_minutes():
    assert [duration(seconds) for seconds in (54, 3540, 3600, 9000)] == ["0.9 minutes", "59.0 minutes", "1.0 hours",
                                                                         "2.5 hours"]  # fmt: skip


def test_a_run_that_was_killed_in_its_first_save_goes_on_from_the_attempt_before(tmp_path):
    task = replace(command("import sys; print(sys.argv[1:])", tmp_path), resumable=True)
    attempts = [Path(task.folder, "lightning_logs", f"version_{number}", "checkpoints") for number in range(3)]
    for folder, name in zip(attempts, ("last.ckpt", "last.ckpt", ".7-last.ckpt"), strict=True):
        folder.mkdir(parents=True)
        (folder / name).touch()
    os.utime(attempts[0] / "last.ckpt", (0, 0))
    execute(task)
    assert f"['--ckpt_path', '{attempts[1] / 'last.ckpt'}']" in (Path(task.folder) / "log.txt").read_text()


# All of it


def run_main(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["reproduce", *map(str, words)])
    return main()


def test_a_reproduction_runs_what_is_missing_goes_on_after_a_kill_and_writes_what_was_played(
    datasets, tmp_path, monkeypatch, capsys
):
    options = [*TINY, "--rollouts.every_n_updates=0", "--data.threads=1"]
    words = ["multi-task", "--games=[breakout, pong]", "--seeds=[0]", "--updates=4", "--episodes=1",
             f"--root={datasets}", f"--output={tmp_path / 'out'}", f"--options={json.dumps(options)}"]  # fmt: skip
    (first, *_) = plan(["multi-task"], settings(datasets, tmp_path, games=("breakout", "pong"), seeds=(0,),
                                            options=tuple(options))).runs  # fmt: skip
    monkeypatch.setattr("sys.argv", ["train.py"])
    fit([word.replace("max_steps=4", "max_steps=2") for word in first.words[1:]])  # as if killed after its checkpoint
    config = Path(first.folder) / "lightning_logs" / "version_0" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 2", "max_steps: 4"))
    assert run_main(monkeypatch, *words) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    assert len(re.findall("^ended ", said, re.M)) == 2
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    for part in ("python -m pd_lightning.reproduce multi-task", "## 2 games in one student",
                 "## All runs", "## Differs from the paper",
                 "2 runs of 4 updates, seed 0, scored over 1 episode under protocol paper",
                 "![learning curves](curves.png)"):  # fmt: skip
        assert part in text
    run = read_run(Path(first.folder) / "lightning_logs" / "version_1")
    assert run.student.updates == 4
    assert "version_0/checkpoints/last.ckpt" in (Path(first.folder) / "log.txt").read_text()
    assert f"| {np.mean(run.returns['breakout']):.1f} |" in text
    assert run_main(monkeypatch, *words) == 0
    assert len(re.findall("^done ", capsys.readouterr().err, re.M)) == 2
