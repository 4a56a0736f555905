"""Live play from the command line: killed, scored, refused, and on two processes."""

import json

import numpy as np
import pytest
import torch
from conftest import quiet_trainer
from running import Run, lines, torchrun
from staging import SHORT, live, student

from pd_lightning.atari import PROTOCOLS
from pd_lightning.cli import PRESETS, main
from pd_lightning.teacher import load_teacher

SMALL = ["--data.batch_size=16", "--data.buffer_size=200", "--data.prefill=40", "--data.parallel=4", "--data.steps=8",
         "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--model.size=net3", "--model.warmup=2",
         "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--rollouts.episodes=1",
         "--data.lessons.minibatches=2", "--rollouts.at_start=false", "--film.enabled=false",
         "--checkpoint.every_n_train_steps=2"]  # fmt: skip


PRESET = {name: f"--config={PRESETS / name}.yaml" for name in ("on_policy", "online")}


def test_killed_by_force_a_run_goes_on_and_teacher_and_student_are_scored_side_by_side(tmp_path):
    words = ["fit", PRESET["online"], *SMALL, "--rollouts.episodes=2"]
    run = Run(tmp_path / "run", *words, "--trainer.max_steps=100000", "--rollouts.every_n_updates=0")
    run.until("lightning_logs/version_0/checkpoints/last.ckpt")
    run.kill()
    last = tmp_path / "run/lightning_logs/version_0/checkpoints/last.ckpt"
    done = torch.load(last, weights_only=True)["global_step"]
    run = Run(tmp_path / "run", *words, f"--trainer.max_steps={done + 4}", f"--rollouts.every_n_updates={done + 2}",
              f"--ckpt_path={last}")  # fmt: skip
    status, output = run.end()
    assert status == 0, output
    folder = tmp_path / "run/lightning_logs/version_1"
    teacher = lines(folder / "teacher_returns.csv")
    for played in (lines(folder / "returns.csv"), teacher):
        assert [row["update"] for row in played] == [str(done + 2)] * 2 + [str(done + 4)] * 2
    assert output.count("pong, the teacher") == 2
    metrics = [row for row in lines(folder / "metrics.csv") if row.get("rollout/pong/teacher_return")]
    returns = [float(row["return"]) for row in teacher]
    assert float(metrics[0]["rollout/pong/teacher_return"]) == np.mean(returns[:2])
    assert float(metrics[0]["rollout/pong/teacher_return_std"]) == pytest.approx(np.std(returns[:2], ddof=1))
    left = load_teacher(folder / "teacher.safetensors")
    assert left.game == "pong"
    assert int(left.about["steps"]) >= done  # it learned from no less than a state an update, before the kill too
    assert left.about["return"] == f"{np.mean(returns[2:]):.2f}"


def test_bad_settings_are_one_line_on_the_command_line(teachers, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    words = ["fit", PRESET["on_policy"], f"--data.teachers={{pong: {teachers['pong']}}}"]
    for option, message in (("--data.beta=2", "beta is 2.0"), ("--data.games=[breakout]", "teachers has pong"),
                            ("--data.buffer_size=10000000000", "GiB are free")):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            main([*words, option])
        error = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert error[-1].startswith("error: ")
        assert message in error[-1]


def test_a_test_of_a_live_student_is_played(teachers, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    words = [PRESET["on_policy"], f"--data.teachers={{pong: {teachers['pong']}}}", *SMALL, "--model.temperature=0.01",
             "--rollouts.protocol=short", f"--trainer.default_root_dir={tmp_path}"]  # fmt: skip
    main(["fit", *words, "--trainer.max_steps=2"])
    words = [word for word in words if "minibatches" not in word]
    main(["test", *words, "--ckpt_path=last", "--rollouts.episodes=3"])
    assert len(lines(tmp_path / "lightning_logs/version_1/returns.csv")) == 3
    assert len(lines(tmp_path / "lightning_logs/version_1/teacher_returns.csv")) == 3


def test_what_asks_for_held_out_states_is_told_that_live_play_has_none(teachers, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    data = live(teachers)
    quiet = quiet_trainer(max_steps=1, max_epochs=-1)
    quiet.fit(student(data), datamodule=data)
    quiet.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "pd_lightning.distillation.PolicyDistillation"
    torch.save(checkpoint, tmp_path / "last.ckpt")  # as the command line saves it
    with pytest.raises(SystemExit):
        main(["validate", PRESET["on_policy"], f"--data.teachers={{pong: {teachers['pong']}}}", "--model.size=net3",
              f"--ckpt_path={tmp_path / 'last.ckpt'}"])  # fmt: skip
    assert "error: validate asks for held-out states, and LiveTeacher has none: score" in capsys.readouterr().err


WITNESS = """
import hashlib, json
from pytorch_lightning import Callback

class Witness(Callback):
    def on_train_end(self, trainer, pl_module):
        data = trainer.datamodule
        def digest(values):
            sha = hashlib.sha256()
            for value in values:
                sha.update(value.cpu().numpy().tobytes())
            return sha.hexdigest()
        states, q = data.collector.buffers["pong"].newest(10**6)
        with open(f"rank{trainer.global_rank}.json", "w") as file:
            json.dump({"student": digest(pl_module.student.state_dict().values()), "states": digest([states]),
                       "kept": len(states), "rounds": data.collector.rounds,
                       "teacher": digest(data.learners["pong"].network.state_dict().values())}, file)
"""


def test_each_of_two_processes_plays_its_own_games_and_they_share_student_and_teacher(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "witness.py").write_text(WITNESS)
    words = ["fit", PRESET["online"], *SMALL, "--trainer.max_steps=6", "--trainer.devices=2", "--trainer.strategy=ddp"]
    words += ["--trainer.callbacks+=witness.Witness", "--data.buffer_size=512", "--rollouts.every_n_updates=0"]
    statuses, output = torchrun(folder, *words)
    assert statuses == (0, 0), output
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2))
    for key in ("student", "teacher", "rounds"):
        assert first[key] == second[key]
    assert first["states"] != second["states"]
    assert first["kept"] == second["kept"] <= 256
