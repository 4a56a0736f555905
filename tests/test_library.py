"""What scripts and notebooks do with the parts: several calls of a Trainer, copies, players of their own."""

import copy
import csv
import os
import pickle
import signal

import pytest
import pytorch_lightning as pl
import torch
from conftest import quiet_trainer
from crossing import Chicken, glance, ten_batches, trainer_of
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.callbacks import Checkpoint, Rollouts
from pd_lightning.checkpoints import read_checkpoint
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.networks import Student
from pd_lightning.rollout import play
from pd_lightning.teacher import Teacher


@pytest.fixture
def data(datasets):
    return TeacherDatasets(str(datasets), batch_size=32, validation=0.25, threads=1)


def student_of(data, **settings):
    torch.manual_seed(0)
    return PolicyDistillation(data.actions, size="net3", warmup=0, **settings)


def scored(folder):
    """The updates at which a run of `trainer_of` has noted scores."""
    with (folder / "version_0" / "returns.csv").open(newline="") as file:
        return sorted({int(line["update"]) for line in csv.DictReader(file)})


@pytest.fixture
def blink(monkeypatch):
    """Rules by which episodes end after ten steps."""
    monkeypatch.setitem(PROTOCOLS, "blink", Protocol("blink", frame_limit=40))


def test_the_best_weights_stay_the_best_whatever_was_validated_meanwhile(data, tmp_path):
    keeping = Checkpoint("val/pong/kl", "max", every_n_train_steps=3, dirpath=tmp_path)  # the first look's are the best
    trainer = quiet_trainer(max_steps=9, val_check_interval=3, callbacks=[keeping], enable_checkpointing=True)
    student = student_of(data)
    trainer.fit(student, datamodule=data)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    for weights in ("last", "best", "best"):
        trainer.validate(student, datamodule=data, ckpt_path=weights, verbose=False)
        assert keeping.best_model_path == str(tmp_path / "best.ckpt")
    assert all(torch.equal(best[name], tensor) for name, tensor in student.state_dict().items())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_fit_in_processes_that_end_with_it_is_refused(data, method):
    student = student_of(data)
    student.trainer = quiet_trainer(strategy=f"ddp_{method}", devices=2)
    with pytest.raises(ValueError, match=rf"strategy \({method}\).* devices=1 in a notebook, strategy='ddp' elsewhere"):
        student.setup("fit")


def test_a_test_that_is_asked_to_end_does_so_after_the_next_episode(data, blink):
    class Killer(pl.Callback):
        def on_test_start(self, trainer, pl_module):
            os.kill(os.getpid(), signal.SIGTERM)

    rollouts = Rollouts(episodes=50, protocol="blink", parallel=1)
    ended = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pd_lightning.callbacks.rollouts.append_returns", lambda *played: ended.append(played))
        trainer = quiet_trainer(callbacks=[Killer(), rollouts], limit_test_batches=1)
        with pytest.raises(SIGTERMException):
            trainer.test(student_of(data), datamodule=data, verbose=False)
    assert not ended
    assert not rollouts.scores


@pytest.mark.parametrize("saves_every", [1, 100])
def test_a_fit_that_is_asked_to_end_while_it_plays_does_so_after_the_next_episode(tmp_path, monkeypatch, saves_every):
    played = []

    def asked(policy, game, episodes, seed, on_episode, **rules):
        played.append(game)
        if len(played) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(episodes):
            on_episode(0.0)
        return glance(policy, game)

    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", asked)

    def run(updates, **more):
        keep = Checkpoint(every_n_train_steps=saves_every)
        trainer = trainer_of(tmp_path, updates, Rollouts(every_n_updates=2, episodes=5), keep)
        trainer.fit(Chicken([4]), ten_batches(), **more)

    with pytest.raises(SIGTERMException):
        run(6)
    assert scored(tmp_path) == [0, 2]
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    if saves_every > 1:
        assert not last.exists()
        return
    assert read_checkpoint(last)["global_step"] == 4  # what was due is saved
    run(6, ckpt_path=last)
    assert scored(tmp_path) == [0, 2, 4, 6]  # and what it owed is played


def test_a_fit_that_is_asked_to_end_in_its_last_score_has_not_ended(tmp_path, monkeypatch):
    def asked(policy, game, episodes, seed, on_episode, **rules):
        os.kill(os.getpid(), signal.SIGTERM)
        on_episode(0.0)

    monkeypatch.setattr("pd_lightning.callbacks.rollouts.play", asked)
    play, keep = Rollouts(at_start=False, every_n_updates=0), Checkpoint(every_n_train_steps=2)
    with pytest.raises(SIGTERMException):
        trainer_of(tmp_path, 3, play, keep).fit(Chicken([]), ten_batches())
    assert read_checkpoint(tmp_path / "version_0" / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_what_was_fitted_can_be_pickled_and_copied_and_learns_on(data):
    student = student_of(data)
    quiet_trainer(max_steps=3, limit_val_batches=0).fit(student, datamodule=data)
    for again, source in ((pickle.loads(pickle.dumps(student)), pickle.loads(pickle.dumps(data))),
                          (copy.deepcopy(student), copy.deepcopy(data))):  # fmt: skip
        assert again.temperatures == student.temperatures
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), student.parameters(), strict=True))
        quiet_trainer(max_steps=2, limit_val_batches=0).fit(again, datamodule=source)
        assert not torch.equal(next(again.parameters()), next(student.parameters()))


class Own(nn.Module):
    """A network that keeps to what `PolicyDistillation.build` asks for."""

    def __init__(self, games):
        super().__init__()
        self.games, self.net = games, Student(games, "net3")

    def centre(self, game, mean, deviation):
        self.net.centre(game, mean, deviation)

    def forward(self, states):
        return self.net(dict(states.items()))


class Ours(PolicyDistillation):
    def build(self, games, size):
        return Own(games)


def test_a_network_of_ones_own_is_asked_about_states_as_the_shipped_ones_are():
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    student = Ours({"pong": 6, "breakout": 4})
    shapes = {"pong": (3, 6), "breakout": (3, 4)}
    for given in (states, {"pong": states, "breakout": states}):
        assert {game: tuple(outputs.shape) for game, outputs in student(given).items()} == shapes


@pytest.mark.parametrize("trained", [True, False])
def test_a_teacher_is_played_with_fire_as_it_was_trained_unless_told_otherwise(blink, trained):
    def idle(states):
        return torch.eye(4)[torch.zeros(len(states), dtype=torch.long)]

    teacher = Teacher.of(idle, "breakout", "idle", fire=trained)
    assert play(teacher, "breakout", 1, protocol="blink").fire is trained
    assert play(teacher, "breakout", 1, protocol="blink", fire=not trained).fire is not trained
    assert play(idle, "breakout", 1, protocol="blink").fire is False


def test_a_module_that_teaches_is_a_copy_of_one_that_can_learn_on():
    own = nn.Sequential(nn.Flatten(), layer := nn.Linear(4 * 84 * 84, 6))
    states = torch.randint(0, 256, (3, 4, 84, 84)).float()
    before = Teacher.of(own, "pong", "mine")(states)
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert own.training
    torch.nn.init.zeros_(layer.weight)
    teacher = Teacher.of(own, "pong", "mine")
    assert not torch.equal(teacher(states), before)
    torch.nn.init.ones_(layer.weight)
    assert teacher(states).abs().max() < 1


@pytest.mark.parametrize("ask", ["setup", "train_dataloader", "val_dataloader", "test_dataloader"])
def test_data_without_a_trainer_say_what_to_do(data, ask):
    with pytest.raises(ValueError, match=r"data\.batches\(\) for a loop of your own"):
        getattr(data, ask)(*["fit"] * (ask == "setup"))
