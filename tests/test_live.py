"""A student that learns from live play learns from what is due, and goes on where it was."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import quiet_trainer, tiny_network
from pytorch_lightning.callbacks import ModelCheckpoint
from staging import LEARNING, SCORE, SHORT, WAYS, collector_of, live, run, student

from pd_lightning.atari import PROTOCOLS
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.live.collector import Collector
from pd_lightning.live.parts import total_updates
from pd_lightning.live.replay import unpack
from pd_lightning.losses import kl
from pd_lightning.teacher import save_teacher
from pd_lightning.temperature import calibrate


@pytest.mark.parametrize("way", WAYS)
def test_a_run_learns_from_so_many_rounds_as_are_due_and_the_same_ones_again(teachers, way, monkeypatch):
    seen = []
    step = PolicyDistillation.training_step
    monkeypatch.setattr(PolicyDistillation, "training_step", lambda self, *a: seen.append(a[0]) or step(self, *a))
    data = live(teachers, **WAYS[way])
    first = run(data)
    assert collector_of(data).rounds == data.settings.rounds_due(7)
    assert {game: len(part.states) for game, part in seen[0].items()} == dict.fromkeys(data.settings.games, 16)
    again = run(live(teachers, **WAYS[way]))
    for a, b in zip(seen[:8], seen[8:], strict=True):
        for game in data.settings.games:
            assert torch.equal(a[game].states, b[game].states)
            assert torch.equal(a[game].teacher_q, b[game].teacher_q)
    for name, value in first.student.state_dict().items():
        assert torch.equal(value, again.student.state_dict()[name])


def test_a_student_that_follows_comes_nearer(teachers):
    far = []
    for updates in (1, 40):
        data = live(teachers, batch_size=64, buffer_size=2000, prefill=400)
        module = run(data, updates)
        states, q = collector_of(data).buffers["pong"].newest(500)
        far.append(float(kl(module(states)["pong"], q)))
    assert far[1] < 0.7 * far[0]


def test_automatic_temperature_is_of_whole_episodes_and_not_of_a_teacher_that_knows_nothing(teachers, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    data = live(teachers, protocol="short")
    module = run(data, 1, student(data, temperature="auto"))
    q = data.teacher_q("pong")
    assert q.shape == (4 * SHORT.frame_limit // 4, 6)
    assert module.temperature("pong") == calibrate(q, 2.0, "pong")
    data = live(teachers, **LEARNING)
    with pytest.raises(ValueError, match=r"temperature is auto, but the teacher is only beginning to learn"):
        run(data, 1, student(data, temperature="auto"))


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_with_memory_and_teacher_as_they_were(teachers, tmp_path, way, monkeypatch):
    taken = []
    take = Collector._take
    monkeypatch.setattr(Collector, "_take", lambda self, played: taken.append(played) or take(self, played))
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    run(live(teachers, **WAYS[way]), 5, enable_checkpointing=True, callbacks=[saved])
    checkpoint = torch.load(tmp_path / "epoch=0-step=5.ckpt", weights_only=True)
    state = checkpoint["LiveTeacher"]["collector"]
    data = live(teachers, **WAYS[way])
    loaded = {}
    load = data.load_state_dict

    def watch(state_dict):
        load(state_dict)
        taken.clear()
        loaded.update(
            rounds=collector_of(data).rounds,
            buffers={game: buffer.state_dict() for game, buffer in collector_of(data).buffers.items()},
            learners={game: {n: v.clone() for n, v in each.network.state_dict().items()}
                      for game, each in data.learners.items()},
            rates={game: each.schedule.last_epoch for game, each in data.learners.items()},
        )  # fmt: skip

    data.load_state_dict = watch
    module = student(data)
    trainer = quiet_trainer(max_epochs=-1, max_steps=9)
    trainer.fit(module, datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=5.ckpt"))
    assert trainer.global_step == 9
    assert loaded["rounds"] == state["rounds"]
    for game, buffer in state["processes"][0]["buffers"].items():
        for name in ("steps", "frames", "shown", "q"):
            assert torch.equal(torch.as_tensor(loaded["buffers"][game][name]), torch.as_tensor(buffer[name]))
    for game, learner in state["learners"].items():
        assert loaded["rates"][game] == learner["schedule"]["last_epoch"] > 0
        for name, value in learner["network"].items():
            assert torch.equal(loaded["learners"][game][name], value)
    for game, ahead in state["processes"][0]["ahead"].items():  # the first round that it takes was played before
        assert torch.equal(taken[0][game].states, unpack(ahead["states"], taken[0][game].states.shape))
        assert torch.equal(taken[0][game].q, ahead["q"])
    assert collector_of(data).rounds == data.settings.rounds_due(8)


def test_a_resumed_run_does_not_score_a_frozen_teacher_again(teachers, tmp_path):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=2)
    data = live(teachers)
    data.note_scores(SCORE)
    run(data, 2, enable_checkpointing=True, callbacks=[saved])
    data = live(teachers)
    trainer = quiet_trainer(max_epochs=-1, max_steps=3)
    trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=2.ckpt"))
    assert data.unscored_teachers("paper") == {}
    assert data.teacher_returns("paper")["pong"].tolist() == [2.0, 4.0]


def test_a_checkpoint_holds_what_was_played_once(teachers, tmp_path):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    run(live(teachers), 5, enable_checkpointing=True, callbacks=[saved])
    checkpoint = torch.load(tmp_path / "epoch=0-step=5.ckpt", weights_only=True)
    assert "collector" in checkpoint["LiveTeacher"]
    assert not checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader")


def test_a_student_that_has_learned_from_a_recording_may_go_on_with_live_play(
    datasets, teachers, tmp_path, monkeypatch
):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    recorded = TeacherDatasets(str(datasets), ["pong"], batch_size=16)
    run(recorded, 5, enable_checkpointing=True, callbacks=[saved], limit_val_batches=0)
    for updates, file in ((13, "epoch=0-step=5.ckpt"), (17, "epoch=0-step=13.ckpt")):
        data = live(teachers, beta=0.0)
        trainer = quiet_trainer(max_epochs=-1, max_steps=updates, enable_checkpointing=True, callbacks=[
            ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=updates)])  # fmt: skip
        trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / file))
        assert collector_of(data).rounds == data.settings.rounds_due(updates - 5 - 1)  # of this play's updates
    trainer = quiet_trainer(max_epochs=-1, max_steps=19, limit_val_batches=0)  # and back
    trainer.fit(student(recorded), datamodule=recorded, ckpt_path=str(tmp_path / "epoch=0-step=13.ckpt"))


def test_a_second_student_is_played_for_anew(teachers):
    data = live(teachers, beta=0.0)
    run(data)
    first = collector_of(data)
    run(data)
    assert collector_of(data) is not first
    assert collector_of(data).rounds == data.settings.rounds_due(7)


def test_a_second_fit_of_a_trainer_is_refused(teachers):
    data = live(teachers)
    trainer = quiet_trainer(max_epochs=-1, max_steps=2)
    trainer.fit(module := student(data), datamodule=data)
    with pytest.raises(ValueError, match="does not go on in a second fit: make a new Trainer"):
        trainer.fit(module, datamodule=data)


@pytest.mark.parametrize("way", ["both act", "the teacher learns"])
def test_precisions_that_are_the_usual_type_of_all_threads_meanwhile_play_in_float32(teachers, way):
    data = live(teachers, **WAYS[way])
    run(data, 20, precision="bf16-true", module=student(data, temperature=0.01))
    assert torch.get_default_dtype() == torch.float32
    assert collector_of(data).buffers["pong"].newest(9).teacher_q.dtype == torch.float32


def test_a_checkpoint_of_other_settings_is_refused(teachers, tmp_path):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=2)
    run(live(teachers), 2, enable_checkpointing=True, callbacks=[saved])
    data = live(teachers, beta=0.5)
    trainer = quiet_trainer(max_epochs=-1, max_steps=4)
    with pytest.raises(ValueError, match=r"cannot resume: beta was 1\.0 in the checkpoint and is 0\.5 now"):
        trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=2.ckpt"))


def test_a_checkpoint_of_another_teacher_is_refused(teachers, tmp_path):
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=2)
    run(live(teachers), 2, enable_checkpointing=True, callbacks=[saved])
    other = save_teacher(tiny_network("pong", seed=1), tmp_path / "other.safetensors", {})
    trainer = quiet_trainer(max_epochs=-1, max_steps=4)
    data = live({"pong": other})
    with pytest.raises(ValueError, match=r"cannot resume: teachers was .*untrained .* and is .*other .*now"):
        trainer.fit(student(data), datamodule=data, ckpt_path=str(tmp_path / "epoch=0-step=2.ckpt"))


@pytest.mark.parametrize("way", ["the teacher acts", "the teacher learns"])
def test_the_round_that_was_played_ahead_is_in_the_last_checkpoint_too(teachers, way):
    data = live(teachers, **WAYS[way])
    run(data)
    state = data.state_dict()["collector"]
    ahead = unpack(state["processes"][0]["ahead"]["pong"]["states"], (data.settings.steps, 4, 4, 84, 84))
    assert ahead[:, :, -1].any(dim=(2, 3)).all()  # no frame of Pong is black
    if way == "the teacher learns":  # from every round that memory or the checkpoint holds, and no other
        updates = state["learners"]["pong"]["schedule"]["last_epoch"]
        assert updates == (state["rounds"] + 1) * data.settings.lessons.passes * data.settings.lessons.minibatches


def test_a_teachers_learning_rate_falls_over_all_batches_of_which_several_may_be_one_update():
    trainer: Any = SimpleNamespace(max_steps=10, max_epochs=-1, accumulate_grad_batches=3, limit_train_batches=1.0)
    assert total_updates(trainer, 100) == 30
    assert total_updates(trainer, 7) == 7 * 3 + 3  # 3 updates an epoch, of 3, 3 and 1 batches
    trainer.max_epochs = 1
    assert total_updates(trainer, 20) == 20
    trainer.max_epochs, trainer.max_steps = 10, -1
    for limit, batches in (1.0, 10_000), (0.5, 5_000), (100, 1_000), (None, 10_000):
        trainer.limit_train_batches = limit
        assert total_updates(trainer, 1_000) == batches
