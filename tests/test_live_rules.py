"""Live play keeps to what was set: who acts, how a teacher learns, FIRE, and what a resumed run must have as it was."""

import io
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import checkpoint_of, quiet_trainer, tiny_network
from pytorch_lightning.trainer.states import TrainerFn
from staging import LEARNING, SHORT, live, live_settings, run, teacher_of

from pd_lightning.atari import PROTOCOLS
from pd_lightning.blocks import Shard
from pd_lightning.centring import mean_image
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.ending import save_teachers
from pd_lightning.live import Lessons
from pd_lightning.live.collector import Collector, Process
from pd_lightning.live.learner import Learner, LearningPlayer
from pd_lightning.live.parts import new_learners
from pd_lightning.live.play import FrozenPlayer
from pd_lightning.pqn import ParallelPlay
from pd_lightning.pqn.games import random_play
from pd_lightning.resuming import ResumeError
from pd_lightning.teacher import load_teacher, save_teacher


def process_of(rank=0):
    return Process(rank, torch.device("cpu"), nullcontext)


def test_the_teachers_share_of_decisions_follows_the_schedule(teachers, monkeypatch):
    shares = []
    play = FrozenPlayer.play
    monkeypatch.setattr(FrozenPlayer, "play", lambda self, who, share: shares.append(share) or play(self, who, share))
    run(live(teachers, beta=1.0, beta_end=0.0, beta_steps=100), 12)
    assert shares == pytest.approx(
        [1.0, 1.0, 0.6, 0.4, 0.2, 0.0, 0.0]
    )  # two rounds of 20 steps before the first update


def test_a_learners_rate_is_half_in_the_middle_of_all_its_updates_and_zero_only_at_their_end():
    learner = Learner("pong", 6, Lessons(passes=2, minibatches=4, warmup=0, learning_rate=1e-3), 5, 0, "cpu")
    rates = []
    for _ in range(5 * 2 * 4 + 1):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        learner.optimizer.step()
        learner.schedule.step()
    assert rates[20] == pytest.approx(5e-4)
    assert min(rates[:-1]) > 0
    assert rates[-1] == 0


def test_each_of_two_learning_teachers_has_a_file_that_says_whether_fire_is_pressed_for_it(tmp_path):
    data = live({}, games=["pong", "breakout"], **LEARNING)
    data.fire["breakout"] = True
    learners = {game: Learner(game, actions, Lessons(), 1, 0, "cpu") for game, actions in data.actions.items()}
    data.learners, data.collector = learners, Collector(data.settings, process_of(), learners, data.fire, {})
    trainer: Any = SimpleNamespace(lightning_module=None, datamodule=data)
    paths = save_teachers(trainer, tmp_path, None)
    assert paths == [tmp_path / game / "teacher.safetensors" for game in ("pong", "breakout")]
    for game, path in zip(("pong", "breakout"), paths, strict=True):
        teacher = load_teacher(path, game)
        assert teacher.fire is (game == "breakout")
        states = torch.zeros((1, 4, 84, 84), dtype=torch.uint8)
        with torch.inference_mode():
            torch.testing.assert_close(teacher(states), data.learners[game].network(states)[game], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("said", "pressed"), [(None, True), (False, False)])
def test_fire_is_pressed_as_the_teachers_file_says_unless_told_otherwise(tmp_path, monkeypatch, said, pressed):
    monkeypatch.setitem(PROTOCOLS, "short", SHORT)
    given = []
    begin = FrozenPlayer.__init__
    monkeypatch.setattr(FrozenPlayer, "__init__", lambda self, *a: given.append(a[4]) or begin(self, *a))
    file = save_teacher(tiny_network("breakout"), tmp_path / "teacher.safetensors", {}, fire=True)
    size = {"prefill": 220, "buffer_size": 240, "protocol": "short", "record_to": str(tmp_path)}
    data = live({"breakout": file}, games=["breakout"], fire=said, **size)
    run(data, 1)
    assert data.fire_rules() == {"breakout": pressed}
    assert given == [pressed]
    assert Shard(tmp_path / "breakout" / "0000.h5").header.fire is pressed


def learner_with(seed):
    trainer: Any = SimpleNamespace(max_steps=10, max_epochs=-1, accumulate_grad_batches=1, limit_train_batches=1.0)
    return new_learners(live_settings(learn=True, parallel=2, seed=seed), process_of(), {"pong": False}, trainer)[
        "pong"
    ].network


def test_a_learning_teacher_begins_with_weights_of_its_seed_and_is_centred_on_random_play():
    one, again, other = (learner_with(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    weights = [name for name in one if name.endswith("weight")]
    assert weights
    assert not any(torch.equal(one[name], other[name]) for name in weights)
    mean, deviation = mean_image(random_play("pong", 2, False, 3))
    assert torch.equal(one["centring.pong.mean"], mean.round())
    assert float(one["centring.pong.deviation"]) == pytest.approx(deviation)


def test_a_learning_teacher_has_layer_norm_and_gradients_that_are_clipped_as_its_lessons_say():
    learner = Learner("pong", 6, Lessons(passes=1, minibatches=1, gradient_clip=1e-6), 10, 0, "cpu")
    assert learner.network.trunk.layer_norm
    LearningPlayer(learner, 2, 6, False, (0,), 1, nullcontext).play(None, 1.0)
    gradients = [p.grad.flatten() for p in learner.network.parameters() if p.grad is not None]
    assert float(torch.cat(gradients).norm()) == pytest.approx(1e-6, rel=1e-2)


def test_a_loaded_student_knows_whether_fire_is_pressed_and_is_not_centred_anew(datasets, tmp_path):
    saved = PolicyDistillation({"breakout": 4}, "net3", temperature=0.01)
    saved.student.centre("breakout", torch.full((84, 84), 77.0), 20.0)
    saved.fire = {"breakout": True}
    loaded = PolicyDistillation.load_from_checkpoint(checkpoint_of(saved, tmp_path / "student.ckpt"))
    assert loaded.fire == {"breakout": True}
    data = TeacherDatasets(str(datasets), ["breakout"], batch_size=16)
    quiet_trainer(max_epochs=-1, max_steps=1, limit_val_batches=0).fit(loaded, datamodule=data)
    assert (loaded.student.state_dict()["centring.breakout.mean"] == 77).all()


def test_a_teacher_that_trains_does_not_go_on_with_another_number_of_devices():
    data = ParallelPlay(parallel=2, steps=4, minibatches=2)
    trainer: Any = SimpleNamespace(world_size=1, state=SimpleNamespace(fn=TrainerFn.FITTING))
    data.trainer = trainer
    state = data.state_dict()
    data.load_state_dict(state)
    trainer.world_size = 2
    with pytest.raises(ResumeError, match=r"cannot resume: devices was 1 in the checkpoint and is 2 now"):
        data.load_state_dict(state)


def test_live_play_does_not_go_on_with_other_fire_rules_or_another_number_of_devices(teachers):
    data = live(teachers)
    run(data, 1)
    state = data.state_dict()
    data.load_state_dict(state)
    data.fire = {"pong": True}
    with pytest.raises(ResumeError, match=r"fire was {'pong': False} in the checkpoint and is {'pong': True} now"):
        data.load_state_dict(state)
    data.fire = {"pong": False}
    data.settings = replace(data.settings, devices=2)
    with pytest.raises(ResumeError, match=r"devices was 1 in the checkpoint and is 2 now"):
        data.load_state_dict(state)


def test_each_process_of_a_resumed_run_has_its_own_replay_buffer(monkeypatch):
    def collector(rank):
        return Collector(
            live_settings(prefill=40, devices=2), process_of(rank), {"pong": teacher_of()}, {"pong": False}, {}
        )

    def share(every, mine):
        every[:] = [mine, mine]

    monkeypatch.setattr(torch.distributed, "all_gather_object", share)
    before = [collector(0), collector(1)]
    for each in before:
        each.play_one()
    state = {**before[0].state_dict(), "processes": [each.state_dict()["processes"][0] for each in before]}
    for rank in (0, 1):
        restored = collector(rank)
        restored.load_state_dict(state)
        seen = restored.buffers["pong"].newest(40).states
        assert torch.equal(seen, before[rank].buffers["pong"].newest(40).states)
        assert not torch.equal(seen, before[1 - rank].buffers["pong"].newest(40).states)


@pytest.mark.parametrize(("options", "left"), [({}, 3), (LEARNING, 2)])
def test_play_takes_some_of_torchs_threads_and_gives_them_back(teachers, options, left, monkeypatch):
    seen, step = [], PolicyDistillation.training_step
    noted = lambda self, *batch: seen.append(torch.get_num_threads()) or step(self, *batch)  # noqa: E731
    monkeypatch.setattr(PolicyDistillation, "training_step", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        run(live(teachers, **options), 6)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert seen[-1] == left


def test_numbers_of_numpy_become_python_s_in_what_a_checkpoint_holds(teachers):
    data = live(teachers, beta=np.float64(1), beta_steps=np.int64(3), lessons=Lessons(discount=np.float64(0.9)))
    playing = ParallelPlay(parallel=np.int64(2), steps=np.int64(4))  # pyright: ignore[reportArgumentType]
    trainer: Any = SimpleNamespace(world_size=1)
    playing.trainer = trainer
    for state in (data.settings.state_dict(), playing.state_dict()):
        content = io.BytesIO()
        torch.save(state, content)
        content.seek(0)
        assert torch.load(content, weights_only=True) == state
