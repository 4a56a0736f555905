"""A teacher of any library in one command: it records, and a student learns what was recorded."""

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from borrowing import SMALL_TEXT, AtariNet, CleanRL, model
from conftest import checkpoint_of, quiet_trainer, tiny_network

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.blocks import Shard, ShardError
from pd_lightning.callbacks import Rollouts
from pd_lightning.callbacks.rollouts import fire_rule
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.losses import kl
from pd_lightning.pqn import PQN
from pd_lightning.recording import record
from pd_lightning.teacher import load_teacher, save_teacher

FORMATS = ["teacher.safetensors", "last.ckpt", "DQN.zip", "QR-DQN.zip", "PPO.zip", "A2C.zip", "policy.pth",
           "dqn_atari.cleanrl_model", "c51_atari.cleanrl_model", "model_50000000.gz"]  # fmt: skip


def make(folder, name):
    """A teacher of Breakout in a file of that name."""
    path = folder / name
    if name == "teacher.safetensors":
        return save_teacher(tiny_network("breakout"), path, {})
    if name == "last.ckpt":
        module = PQN({"breakout": 4}, "net3")
        module.network.load_state_dict(tiny_network("breakout").state_dict())
        checkpoint_of(module, path)
    elif name.endswith(".zip"):
        model(path.stem, 4, **SMALL_TEXT).save(path)
    elif name == "policy.pth":
        model("DQN", 4, **SMALL_TEXT).save(folder / "my.zip")
        zipfile.ZipFile(folder / "my.zip").extract(name, folder)
    elif name.endswith(".gz"):
        AtariNet(4, hidden=16).save(path)
    else:
        CleanRL(4, 51 if "c51" in name else 1, hidden=16).save(path, "BreakoutNoFrameskip-v4")
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recording by a teacher of a format, made once: its root and its shard."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("bring")
            path = make(folder, name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(PROTOCOLS, "brief", Protocol("brief", epsilon=0.3, frame_limit=400))
                (shard,) = record("breakout", 0.005, str(folder / "datasets"), str(path), "brief", parallel=3, check=0)
            made[name] = folder / "datasets", shard, path
        return made[name]

    return of


def student_of(root, **settings):
    torch.manual_seed(0)
    data = TeacherDatasets(str(root), ["breakout"], batch_size=64, threads=1, validation=0)
    return PolicyDistillation(data.actions, size="net3", warmup=0, **settings), data


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_teacher_of_any_format_records_can_be_distilled(recorded, name):
    root, shard, path = recorded(name)
    teacher = load_teacher(path, "breakout")
    said = "logits" if name in ("PPO.zip", "A2C.zip") else "q"
    assert (shard.header.outputs, shard.header.teacher_sha256) == (said, teacher.sha256)
    states, q = torch.tensor(shard.states(0)), torch.tensor(shard.q_values[0, : shard.lengths[0]])
    torch.testing.assert_close(teacher(states), q, rtol=0, atol=1e-4)

    student, data = student_of(root)
    trainer = quiet_trainer(max_epochs=6, limit_val_batches=0)
    losses = []
    trainer.callbacks.append(Watch(student, states, q, losses))  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(student, datamodule=data)
    assert losses[-1] < 0.7 * losses[0]
    assert (student.temperature("breakout") == 1) == (said == "logits")  # they are a policy already


class Watch(pl.Callback):
    """Takes the loss on some states, before the first update and after each epoch."""

    def __init__(self, student, states, q, losses):
        self.student, self.states, self.q, self.losses = student, states, q, losses

    def take(self):
        with torch.no_grad():
            said = self.student(self.states)["breakout"]
        self.losses.append(float(kl(said, self.q, self.student.temperature("breakout"))))

    def on_train_start(self, trainer, pl_module):
        self.take()

    def on_train_epoch_end(self, trainer, pl_module):
        self.take()


# Logits are no Q-values


@pytest.mark.parametrize(("settings", "complaint"), [
    ({"loss": "mse"}, r"loss is mse, but the teacher of breakout was recorded with logits.*temperature 1 or auto"),
    ({"temperature": 0.01}, r"temperature is 0\.01, but the teacher of breakout was recorded with logits.* 1 or auto"),
])  # fmt: skip
def test_losses_that_make_no_sense_of_logits_are_refused_before_the_first_update(recorded, settings, complaint):
    student, data = student_of(recorded("PPO.zip")[0], **settings)
    with pytest.raises(ValueError, match=complaint):
        quiet_trainer(limit_val_batches=0).fit(student, datamodule=data)


def test_nll_asks_only_which_action_the_logits_prefer(recorded):
    student, data = student_of(recorded("PPO.zip")[0], loss="nll")
    trainer = quiet_trainer(limit_val_batches=0, max_steps=2, log_every_n_steps=1)
    before = [parameter.detach().clone() for parameter in student.parameters()]
    trainer.fit(student, datamodule=data)
    assert torch.isfinite(trainer.callback_metrics["train/breakout/loss"])
    assert not all(map(torch.equal, student.parameters(), before))


def test_a_student_that_imitates_a_policy_says_logits_and_one_that_repeats_q_values_q(tmp_path, recorded):
    for loss, outputs in (("kl", "logits"), ("nll", "logits"), ("mse", "q")):
        student, data = student_of(recorded("DQN.zip")[0], loss=loss)
        trainer = quiet_trainer(limit_val_batches=0, max_steps=1)
        trainer.fit(student, datamodule=data)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        assert load_teacher(tmp_path / "last.ckpt").outputs == outputs


def test_only_a_recording_of_logits_says_what_it_holds_and_must_not_be_changed_in_that(tmp_path, recorded):
    with h5py.File(recorded("DQN.zip")[1].path) as file:
        assert "outputs" not in file.attrs
    changed = tmp_path / "0000.h5"
    changed.write_bytes(Path(recorded("PPO.zip")[1].path).read_bytes())
    with h5py.File(changed, "r+") as file:
        assert file.attrs["outputs"] == b"logits"
        del file.attrs["outputs"]
    with pytest.raises(ShardError, match=r"0000\.h5: digest"):
        Shard(changed)


# FIRE


def test_fire_is_pressed_in_a_recording_as_the_library_pressed_it_unless_told_otherwise(tmp_path, recorded, capfd):
    theirs, ours = recorded("DQN.zip")[1].header, recorded("teacher.safetensors")[1].header
    assert (theirs.fire, ours.fire) == (True, False)
    path = make(tmp_path, "DQN.zip")
    capfd.readouterr()  # those two may have been recorded only now
    (shard,) = record("breakout", 0.001, str(tmp_path), str(path), fire=False, parallel=1, check=0)
    assert not shard.header.fire
    assert "FIRE" not in capfd.readouterr().err
    (shard,) = record("breakout", 0.001, str(tmp_path / "other"), str(path), parallel=1, check=0)
    assert "FIRE is pressed for the teacher, as it was trained" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["DQN.zip", "teacher.safetensors"])
def test_a_student_is_scored_with_fire_as_its_teacher_was(monkeypatch, recorded, name):
    monkeypatch.setitem(PROTOCOLS, "brief", Protocol("brief", epsilon=0.3, frame_limit=400))
    root, shard, _ = recorded(name)
    rollouts = Rollouts(protocol="brief", episodes=2, parallel=2, at_start=False)
    student, data = student_of(root, temperature=0.1)
    trainer = quiet_trainer(limit_val_batches=0, max_steps=1)
    trainer.callbacks.append(rollouts)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(student, datamodule=data)
    assert rollouts.scores["breakout"].fire == shard.header.fire == (name == "DQN.zip")
    percent = float(trainer.callback_metrics["rollout/breakout/percent_of_teacher"])
    teacher, played = float(np.mean(shard.returns)), rollouts.scores["breakout"].mean
    assert percent == pytest.approx(100 * played / teacher, nan_ok=True)  # compared with play by the same rules
    assert fire_rule(trainer, "breakout", given=True)
    assert not fire_rule(trainer, "breakout", given=False)
